"""Decodes the validation prompts with the finalists, other methods and plain decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import TYPE_CHECKING, Any

from skipopt.bench.lossless import LosslessVerdict, check_texts
from skipopt.bench.metrics import (
    acceptance_rate,
    end_to_end,
    mean_acceptance_length,
    samples_of,
    speedup,
    tokens_per_second,
)
from skipopt.bench.runners import PLAIN, SkipoptRunner
from skipopt.bench.timing import Timer, device_clock
from skipopt.drafting.checkpoints.checkpoint import shipped
from skipopt.methods import MethodSpec, parse_method
from skipopt.study.config import LAYER_SKIP
from skipopt.study.elimination import eliminate, mean_log_speedup, tied_with_fastest

if TYPE_CHECKING:
    from skipopt.bench.workload import Workload
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.stats import Interval
    from skipopt.study.config import SearchConfig
    from skipopt.study.time_plan import Deadline

PROMPT_LOOKUP = "prompt-lookup"
BLOCKWISE = "blockwise"  # needs heads that were trained for this model
BLOCKWISE_CHECKPOINT = "heads-ffn"


@dataclass(frozen=True, slots=True)
class Validated:
    """Measured results of one method with one candidate.

    Attributes:
        index: of the candidate.
        method: name without options.
        mean_log_speedup: mean over prompts of the logarithm of the speedup.
        tied: it was not dropped, and is not significantly slower than the fastest.
        speedup: of decoding alone: median over prompts, with its 95 % interval.
        end_to_end: the same of whole texts, their prefill included.
        mean_acceptance_length: tokens per target forward, bonus token included.
    """

    index: int
    method: str
    mean_log_speedup: float
    tied: bool
    speedup: Interval
    end_to_end: Interval
    acceptance_rate: float | None
    mean_acceptance_length: float
    plain_tokens_per_second: float
    tokens_per_second: float
    lossless: LosslessVerdict

    def to_json(self) -> dict[str, Any]:
        """The `measured` section of a profile."""
        omitted = ("index", "method", "mean_log_speedup", "tied")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in omitted}
        intervals = {key: getattr(self, key).to_json() for key in ("speedup", "end_to_end")}
        return {**values, **intervals}


@dataclass(frozen=True, slots=True)
class _Entrant:
    """The runner of one method with one candidate.

    Attributes:
        kind: method and draft configuration; entrants of one kind differ in their masks only.
    """

    index: int
    runner: SkipoptRunner
    kind: str


def validate(
    target: Target,
    candidates: Sequence[Profile],
    workload: Workload,
    config: SearchConfig,
    deadline: Deadline,
    on_step: Callable[[], None],
    lookup_bound: float = inf,
) -> list[Validated]:
    """Measure all candidates and other methods against plain decoding, on the same prompts.

    Methods that need a mask use that of the first candidate that skips anything, if they can draft
    as it does.

    Args:
        candidates: profiles to decode with by `layer-skip`.
        workload: the validation prompts.
        deadline: no prompt begins that would end after it, but the first two always do.
        on_step: called after each decoding.
        lookup_bound: a speedup that prompt lookup does not exceed.

    Returns:
        All but plain decoding, the winner first (see `rank`).
    """
    entrants = [
        *_layer_skip_entrants(target, candidates),
        *_baselines(target, candidates, config, lookup_bound),
    ]
    runners = [SkipoptRunner(target, MethodSpec(PLAIN)), *(each.runner for each in entrants)]
    timer = Timer(runners, workload.prompts, workload.lengths, device_clock(target.device))
    timer.warm_up()
    kinds = {each.runner.name: each.kind for each in entrants}
    remaining = eliminate(timer, kinds, config, no_time_for_another(deadline), on_step)
    tied = tied_with_fastest(timer.samples, remaining, config.tie_alpha)
    results = [
        _results(target, timer, each, workload, each.runner.name in tied) for each in entrants
    ]
    return rank(results, config.methods)


def rank(results: Sequence[Validated], methods: Sequence[str]) -> list[Validated]:
    """The tied results by simplicity of their method, then the others by speed.

    A more complex method must be significantly faster to win. But among the tied ones, those
    whose interval lies above 1 come first, so that simplicity alone never turns speculation off.

    Args:
        methods: simplest first.
    """
    order = [parse_method(method).name for method in methods]

    def key(each: Validated) -> tuple[bool, bool, int, float]:
        if not each.tied:
            return True, False, 0, -each.mean_log_speedup
        return False, each.speedup.low <= 1, order.index(each.method), -each.mean_log_speedup

    return sorted(results, key=key)


def best_lossless(ranked: Sequence[Validated]) -> Validated:
    """The first result whose text was that of plain decoding; the first one without any."""
    return next((each for each in ranked if each.lossless != "failed"), ranked[0])


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
    target: Target, candidates: Sequence[Profile], config: SearchConfig, lookup_bound: float
) -> list[_Entrant]:
    """The other methods of the config that may win.

    `blockwise` only where heads ship for this model; `prompt-lookup` only where its bound is not
    below the best prediction; methods that draft under a mask only where there is one.
    """
    found: list[_Entrant] = []
    for spec in map(parse_method, config.methods):
        index = _drafted_by(spec, candidates)
        if spec.name == LAYER_SKIP or index is None:
            continue
        if spec.name == BLOCKWISE and shipped(BLOCKWISE_CHECKPOINT, target) is None:
            continue
        if spec.name == PROMPT_LOOKUP and lookup_bound < _least_to_win(candidates, config):
            continue
        found.append(_Entrant(index, SkipoptRunner(target, spec, candidates[index]), str(spec)))
    return found


def _drafted_by(spec: MethodSpec, candidates: Sequence[Profile]) -> int | None:
    """The first candidate whose drafts this method can make; None where there is none."""
    if not spec.needs_mask:
        return next((i for i, each in enumerate(candidates) if each.skip_mask.skipped), 0)
    for index, each in enumerate(candidates):
        if each.skip_mask.skipped and (spec.takes_draft_config or not each.draft_config):
            return index
    return None


def _least_to_win(candidates: Sequence[Profile], config: SearchConfig) -> float:
    """A speedup below which a method does not win, by the best prediction."""
    predicted = [each.predicted.speedup for each in candidates if each.predicted is not None]
    return (1 - config.finalist_margin) * max(predicted, default=0.0)


def no_time_for_another(deadline: Deadline) -> Callable[[], bool]:
    """A function that is called after each prompt: whether one like the slowest would be late."""
    last, slowest = deadline.clock(), 0.0

    def late() -> bool:
        nonlocal last, slowest
        now = deadline.clock()
        slowest, last = max(slowest, now - last), now
        return not deadline.fits(slowest)

    return late


def _results(
    target: Target, timer: Timer, entrant: _Entrant, workload: Workload, tied: bool
) -> Validated:
    name = entrant.runner.name
    own = samples_of(timer.samples, name)
    total = end_to_end(timer.samples, name, PLAIN)
    assert total is not None, "plain decoding has decoded every prompt"
    return Validated(
        index=entrant.index,
        method=entrant.runner.spec.name,
        mean_log_speedup=mean_log_speedup(timer.samples, name),
        tied=tied,
        speedup=speedup(timer.samples, name, PLAIN),
        end_to_end=total.whole,
        acceptance_rate=acceptance_rate(own),
        mean_acceptance_length=mean_acceptance_length(own) or 1.0,
        plain_tokens_per_second=tokens_per_second(samples_of(timer.samples, PLAIN)),
        tokens_per_second=tokens_per_second(own),
        lossless=check_texts(target, workload.compared_texts(own)).verdict,
    )
