"""Decodes the validation prompts with the finalists, other methods and plain decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import exp
from statistics import fmean
from typing import TYPE_CHECKING, Any

from skipopt.drafting.checkpoints.checkpoint import shipped
from skipopt.measurement.lossless import LosslessVerdict, check_texts
from skipopt.measurement.methods_table import first_texts
from skipopt.measurement.metrics import (
    acceptance_rate,
    end_to_end,
    mean_acceptance_length,
    samples_of,
    speedup,
    tokens_per_second,
)
from skipopt.measurement.runners import PLAIN, SkipoptRunner
from skipopt.measurement.timing import Timer, device_clock
from skipopt.methods import MethodSpec, parse_method
from skipopt.study.config import LAYER_SKIP
from skipopt.study.elimination import (
    MIN_PROMPTS,
    Elimination,
    Entry,
    mean_log_speedup,
    tied_with_fastest,
)

if TYPE_CHECKING:
    from skipopt.cost_model.prediction import Prediction
    from skipopt.draft_config import DraftConfig
    from skipopt.measurement.workload import Workload
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.stats import Interval
    from skipopt.study.config import SearchConfig
    from skipopt.study.expected_speedup import Expected
    from skipopt.study.time_plan import Deadline

# The prediction of a method that drafts with the candidate of this index; None if there is none.
Predict = Callable[[MethodSpec, int], "Prediction | None"]

MOST_CONFIGS = 2  # draft configurations that another method is tried with
BLOCKWISE = "blockwise"  # needs heads that were trained for this model
BLOCKWISE_CHECKPOINT = "heads-ffn"
ELIMINATION_SHARE = 0.85  # of the time after the warm-up; the rest is for first texts
FIRST_TEXT_FACTOR = 4  # that a text takes longer in a fresh state, at most, as a rule


@dataclass(frozen=True, slots=True)
class Validated:
    """Measured results of one method with one candidate.

    Attributes:
        index: of the candidate.
        method: name without options.
        expected: end to end, on other text.
        mean_log_speedup: mean over prompts of the logarithm of the end-to-end speedup.
        dropped: before the end of the validation, as it could not win.
        tied: it was not dropped, and is not significantly slower than the fastest.
        speedup: of decoding alone: median over prompts, with its 95 % interval.
        end_to_end: the same of whole texts, their prefill included.
        first_text: the same of texts for which nothing was captured or copied before; None if
            not measured.
        mean_acceptance_length: tokens per target forward, bonus token included.
        prediction: before the validation; None if there was none.
    """

    index: int
    method: str
    expected: Expected
    mean_log_speedup: float
    dropped: bool
    tied: bool
    speedup: Interval
    end_to_end: Interval
    acceptance_rate: float | None
    mean_acceptance_length: float
    plain_tokens_per_second: float
    tokens_per_second: float
    lossless: LosslessVerdict
    first_text: Interval | None = None
    prediction: Prediction | None = None

    @property
    def expected_first_text(self) -> float | None:
        """Speedup of first texts, lowered as `expected` is below what was measured."""
        if self.first_text is None:
            return None
        return self.first_text.median * exp(self.expected.log_speedup - self.mean_log_speedup)

    def to_json(self) -> dict[str, Any]:
        """The `measured` section of a profile."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _OMITTED}
        intervals = {
            key: found.to_json()
            for key in ("speedup", "end_to_end", "first_text")
            if (found := getattr(self, key)) is not None
        }
        return {**values, **intervals}


_OMITTED = (
    "index",
    "method",
    "expected",
    "mean_log_speedup",
    "dropped",
    "tied",
    "prediction",
)


@dataclass(frozen=True, slots=True)
class _Entrant:
    """The runner of one method with one candidate.

    Attributes:
        kind: method and draft configuration; entrants of one kind differ in their masks only.
    """

    index: int
    runner: SkipoptRunner
    kind: str

    def entry(self, predict: Predict) -> Entry:
        return Entry(self.kind, predict(self.runner.spec, self.index))


def validate(
    target: Target,
    candidates: Sequence[Profile],
    workload: Workload,
    config: SearchConfig,
    deadline: Deadline,
    on_step: Callable[[], None],
    predict: Predict,
) -> list[Validated]:
    """Measure what may win against plain decoding, on the same prompts.

    Methods that draft with the target's weights do so as the best candidates do. What is predicted
    to lose is not decoded (see `may_win`).

    Args:
        candidates: profiles to decode with by `layer-skip`.
        workload: the validation prompts.
        deadline: nothing begins that would end after it, but two prompts are always decoded by
            plain decoding and one entrant.
        on_step: called after each decoding.
        predict: the predictions that measurements are combined with.

    Returns:
        All that were decoded but plain decoding, best first (see `rank`); nothing if everything
        is predicted to lose.
    """
    entrants = [
        *_layer_skip_entrants(target, candidates),
        *_baselines(target, candidates, config),
    ]
    entries = {each.runner.name: each.entry(predict) for each in entrants}
    winning = may_win(entries, config)
    entrants = sorted(
        (each for each in entrants if each.runner.name in winning),
        key=lambda each: -_predicted(entries[each.runner.name]),
    )
    if not entrants:
        return []
    runners = [SkipoptRunner(target, MethodSpec(PLAIN)), *(each.runner for each in entrants)]
    timer = Timer(runners, workload.prompts, workload.lengths, device_clock(target.device))
    warm_up(timer, deadline, on_step)
    running = {runner.name for runner in timer.running}
    entries = {name: entries[name] for name in winning if name in running}
    validation = Elimination(
        timer, entries, config, deadline.part(ELIMINATION_SHARE), on_step, workload.categories
    )
    remaining = validation.run()
    expected = validation.expected()
    best = max(remaining, key=lambda name: expected[name].log_speedup)
    _time_first_texts(target, timer, best, deadline, on_step)
    tied = tied_with_fastest(timer.samples, remaining, config.tie_alpha)
    return rank(
        [
            _results(
                target,
                timer,
                each,
                workload,
                expected[name],
                dropped=name not in remaining,
                tied=name in tied,
                prediction=entries[name].prediction,
            )
            for each in entrants
            if (name := each.runner.name) in expected
        ]
    )


def may_win(entries: Mapping[str, Entry], config: SearchConfig) -> list[str]:
    """The names of those that are not predicted to lose, within the error of their prediction.

    What loses is slower than plain decoding, or more than `finalist_margin` slower than the best
    prediction. What has no prediction may win. The objective `matchness` decodes everything.
    """
    if config.objective != "speed":
        return list(entries)
    predicted = [exp(e.prediction.log_speedup) for e in entries.values() if e.prediction]
    least = max(1.0, (1 - config.finalist_margin) * max(predicted, default=1.0))
    return [
        name
        for name, entry in entries.items()
        if entry.prediction is None or entry.prediction.may_reach(least)
    ]


def rank(results: Sequence[Validated]) -> list[Validated]:
    """The results by the speedup that is expected on other text; those that were dropped last."""
    return sorted(results, key=lambda each: (each.dropped, -each.expected.log_speedup))


def best_lossless(ranked: Sequence[Validated]) -> Validated:
    """The first result whose text was that of plain decoding; the first one without any."""
    return next((each for each in ranked if each.lossless != "failed"), ranked[0])


def _predicted(entry: Entry) -> float:
    """The predicted log speedup; 0 where there is none."""
    return entry.prediction.log_speedup if entry.prediction else 0.0


def warm_up(timer: Timer, deadline: Deadline, on_step: Callable[[], None]) -> None:
    """Warm up as many runners as can decode two prompts in time; two of them at least."""
    warm: list[str] = []
    for runner in timer.running:
        began = deadline.clock()
        timer.warm_up_runner(runner)
        on_step()
        warm.append(runner.name)
        seconds = deadline.clock() - began
        # The next one warms up as well, and decodes the prompts.
        if len(warm) > 1 and not deadline.fits((1 + MIN_PROMPTS * (len(warm) + 1)) * seconds):
            break
    timer.keep(warm)


def _time_first_texts(
    target: Target, timer: Timer, name: str, deadline: Deadline, on_step: Callable[[], None]
) -> None:
    """Time texts in a fresh state with plain decoding and one runner, as far as there is time."""
    timer.keep([PLAIN, name])
    seconds = fmean(sample.decoding.total_seconds for sample in timer.samples)
    count = first_texts(target, len(timer.prompts))
    while count and not deadline.fits(2 * count * FIRST_TEXT_FACTOR * seconds):
        count -= 1
    timer.run_first_texts(count, on_step)


def _layer_skip_entrants(target: Target, candidates: Sequence[Profile]) -> list[_Entrant]:
    spec = MethodSpec(LAYER_SKIP)
    return [
        _Entrant(
            index,
            SkipoptRunner(target, spec, profile, name=f"candidate-{index}"),
            f"{LAYER_SKIP} {profile.draft_config}",
        )
        for index, profile in enumerate(candidates)
    ]


def _baselines(
    target: Target, candidates: Sequence[Profile], config: SearchConfig
) -> list[_Entrant]:
    """The other methods of the config.

    `blockwise` only where heads ship for this model; methods that draft with the target's weights
    once for each of the best draft configurations, if anything makes their drafts cheaper.
    """
    return [
        _Entrant(
            index,
            SkipoptRunner(target, spec, candidates[index], name=_entrant_name(spec, index)),
            f"{spec} {candidates[index].draft_config}" if spec.needs_mask else str(spec),
        )
        for spec in map(parse_method, config.methods)
        if spec.name != LAYER_SKIP
        and not (spec.name == BLOCKWISE and shipped(BLOCKWISE_CHECKPOINT, target) is None)
        for index in drafted_by(spec, candidates)
    ]


def _entrant_name(spec: MethodSpec, index: int) -> str:
    """Of its runner: a method that drafts as a candidate does may run with several."""
    return f"{spec} of candidate-{index}" if spec.needs_mask else str(spec)


def drafted_by(spec: MethodSpec, candidates: Sequence[Profile]) -> list[int]:
    """The candidates that this method is tried with.

    Those whose drafts it can make: the best of each of the first `MOST_CONFIGS` draft
    configurations. A method that makes no such drafts is tried once, and names the first candidate
    with a mask.

    Args:
        candidates: best first.
    """
    if not spec.needs_mask:
        return [next((i for i, each in enumerate(candidates) if each.skip_mask.skipped), 0)]
    first: dict[DraftConfig, int] = {}
    for index, each in enumerate(candidates):
        usable = spec.takes_draft_config or not each.draft_config
        if usable and (each.skip_mask.skipped or each.draft_config):
            first.setdefault(each.draft_config, index)
    return list(first.values())[:MOST_CONFIGS]


def _results(
    target: Target,
    timer: Timer,
    entrant: _Entrant,
    workload: Workload,
    expected: Expected,
    *,
    dropped: bool,
    tied: bool,
    prediction: Prediction | None,
) -> Validated:
    name = entrant.runner.name
    own, first = (samples_of(each, name) for each in (timer.samples, timer.first_texts))
    total, first_total = (
        end_to_end(each, name, PLAIN) for each in (timer.samples, timer.first_texts)
    )
    assert total is not None, "plain decoding has decoded every prompt"
    return Validated(
        index=entrant.index,
        method=entrant.runner.spec.name,
        expected=expected,
        mean_log_speedup=mean_log_speedup(timer.samples, name),
        dropped=dropped,
        tied=tied,
        speedup=speedup(timer.samples, name, PLAIN),
        end_to_end=total.whole,
        first_text=first_total.whole if first_total else None,
        acceptance_rate=acceptance_rate(own),
        mean_acceptance_length=mean_acceptance_length(own) or 1.0,
        plain_tokens_per_second=tokens_per_second(samples_of(timer.samples, PLAIN)),
        tokens_per_second=tokens_per_second(own),
        lossless=check_texts(target, workload.compared_texts([*own, *first])).verdict,
        prediction=prediction,
    )
