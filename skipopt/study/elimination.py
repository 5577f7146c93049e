"""Decodes prompt by prompt with several runners, and drops those that cannot win.

So the time goes to the comparisons that are close. Speedups are end to end: of whole texts, their
prefill included. Decisions to drop are one-sided paired t tests over prompts
(`stats.significantly_worse`) of the logarithms of speedups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, sqrt
from statistics import fmean
from typing import TYPE_CHECKING

from skipopt.measurement.metrics import log_end_to_end_by_prompt, prefill_share
from skipopt.measurement.runners import PLAIN
from skipopt.stats import significantly_worse
from skipopt.study.expected_speedup import NORMAL_95, Entrant, Expected, expected_speedups

if TYPE_CHECKING:
    from skipopt.cost_model.prediction import Prediction
    from skipopt.measurement.timing import Sample, Timer
    from skipopt.study.config import SearchConfig
    from skipopt.study.time_plan import Deadline

MIN_PROMPTS = 2  # of which the samples can be compared
LAST_REPEATS = 2  # where only one runner is left


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a runner before it decodes.

    Attributes:
        kind: method and draft configuration; the runners of a kind differ in their masks only.
        prediction: of decoding alone; None if there is none.
    """

    kind: str
    prediction: Prediction | None = None


@dataclass(slots=True, eq=False)
class Elimination:
    """A validation of several runners.

    Attributes:
        timer: runs plain decoding and all runners of `entries`.
        entries: by name of the runner.
        on_step: called after each decoding.
        categories: of each prompt; empty where there are none.
        prompts: that all runners left have decoded.
    """

    timer: Timer
    entries: Mapping[str, Entry]
    config: SearchConfig
    deadline: Deadline
    on_step: Callable[[], None]
    categories: Sequence[str | None] = ()
    prompts: int = field(default=0, init=False)

    def run(self) -> list[str]:
        """Decode until the time is up, one runner is left, or all repeats are done.

        Each prompt is decoded by all runners before the next one, so the samples are paired
        whenever the time ends. Nothing begins that would end after the deadline, if it takes as
        long as the last decoding. But two prompts are decoded however short the time is: where it
        is up before, by plain decoding and the runner that is expected to be the fastest.

        From `min_validation_prompts` prompts on, after each prompt, only the runner of each kind
        that is expected to be the fastest is kept: the predictions of its masks differed by less
        than the prediction error. Of these, a runner is dropped if it is significantly slower than
        the fastest one, or if its gain over plain decoding is significantly below `min_gain`.
        Decoding also ends where no more of it would show that any runner pays (see `cannot_pay`).

        Note:
            Each decision has level `drop_alpha`. It is taken after every prompt and repeat, and is
            not corrected for the number of looks, so the best of several equal runners is dropped
            with a higher probability than `drop_alpha`.

        Returns:
            The names of the runners that were not dropped; at least one.
        """
        watch = _Watch(self.deadline)
        for _ in range(self.config.validation_repeats):
            for _prompt in self.timer.iter_repeat(
                lambda: self._decoded(watch), lambda: self._is_late(watch)
            ):
                self.prompts = len({sample.prompt for sample in self.timer.samples})
                if self.prompts >= self.config.min_validation_prompts:
                    self._drop()
                    if self._is_futile():
                        return self.remaining
                if self.prompts >= MIN_PROMPTS and not watch.fits(len(self.timer.running)):
                    return self.remaining
            # With fewer prompts than `min_validation_prompts`, nothing is dropped.
            repeats = 1 + self.timer.samples[-1].repeat
            if not watch.fits(1) or (len(self.remaining) == 1 and repeats >= LAST_REPEATS):
                break
        return self.remaining

    @property
    def remaining(self) -> list[str]:
        """The runners that were not dropped."""
        running = [runner.name for runner in self.timer.running]
        return [name for name in self.entries if name in running]

    def expected(self) -> dict[str, Expected]:
        """What each runner that has decoded anything is expected to reach on other text."""
        samples = self.timer.samples
        prefill = prefill_share(samples, PLAIN)
        entrants = {
            name: Entrant(own, _predicted(entry.prediction, prefill))
            for name, entry in self.entries.items()
            if (own := log_end_to_end_by_prompt(samples, name, PLAIN))
        }
        found = expected_speedups(list(entrants.values()), self.categories)
        return dict(zip(entrants, found, strict=True))

    def _is_futile(self) -> bool:
        """Whether no runner that is left is going to pay."""
        left, samples = self.remaining, self.timer.samples
        alpha, min_gain = self.config.drop_alpha, self.config.min_gain
        if len(left) == 1 and _is_slower(samples, left[0], PLAIN, alpha, min_gain):
            return True
        repeats = self.config.validation_repeats if len(left) > 1 else LAST_REPEATS
        all_samples = repeats * len(self.timer.prompts)
        done = min(1.0, sum(sample.runner == PLAIN for sample in samples) / all_samples)
        expected = self.expected()
        return all(cannot_pay(expected[name], done) for name in left)

    def _decoded(self, watch: _Watch) -> None:
        watch.note()
        self.on_step()

    def _is_late(self, watch: _Watch) -> bool:
        if watch.fits(1):
            return False
        if self.prompts >= MIN_PROMPTS:
            return True
        self.timer.keep([PLAIN, self._most_promising()])
        return False

    def _most_promising(self) -> str:
        """By prediction; the first one where there is none."""

        def predicted(name: str) -> float:
            prediction = self.entries[name].prediction
            return prediction.log_speedup if prediction else 0.0

        return max(self.remaining, key=predicted)

    def _drop(self) -> None:
        """Drop what cannot win by what was decoded so far."""
        expected, best = self.expected(), dict[str, str]()
        for name in sorted(self.remaining, key=lambda each: expected[each].log_speedup):
            best[self.entries[name].kind] = name
        kept = [name for name in self.remaining if name in best.values()]
        self.timer.keep([PLAIN, *_survivors(self.timer.samples, kept, self.config)])


class _Watch:
    """Whether more decodings would end in time, if they take as long as the last ones."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._last = deadline.clock()
        self._seconds: list[float] = []

    def note(self) -> None:
        """A decoding has ended."""
        now = self._deadline.clock()
        self._seconds.append(now - self._last)
        self._last = now

    def fits(self, decodings: int) -> bool:
        return self._deadline.fits(sum(self._seconds[-decodings:]))


def cannot_pay(expected: Expected, done: float) -> bool:
    """Whether an expected speedup is not going to be significantly above 1.

    With the rest of the samples its standard deviation falls to √done of what it is, so its mean
    moves by a normal deviate with √(1 − done) of it. It pays if the lower end of the 95 % interval
    is then above 1.

    Args:
        done: share of the samples that were taken.

    Returns:
        True where the probability of that is below 2.5 %.
    """
    halfwidth = NORMAL_95 * expected.deviation
    return expected.log_speedup < halfwidth * (sqrt(done) - sqrt(1 - done))


def tied_with_fastest(samples: Sequence[Sample], names: Sequence[str], alpha: float) -> list[str]:
    """The fastest runner, and those that are not significantly slower at level `alpha`.

    One look, after all prompts.
    """
    fastest = max(names, key=lambda name: mean_log_speedup(samples, name))
    return [
        name for name in names if name == fastest or not _is_slower(samples, name, fastest, alpha)
    ]


def mean_log_speedup(samples: Sequence[Sample], name: str) -> float:
    """Mean over prompts of the logarithm of the speedup over plain decoding."""
    return fmean(_log_speedups(samples, name, PLAIN))


def _predicted(prediction: Prediction | None, prefill: float) -> float | None:
    return None if prediction is None else predicted_end_to_end(prediction, prefill)


def predicted_end_to_end(prediction: Prediction, prefill: float) -> float:
    """The predicted speedup of whole texts.

    Args:
        prediction: of decoding alone.
        prefill: share of the time of plain decoding that the prefill takes.
    """
    return 1 / (prefill + (1 - prefill) / exp(prediction.log_speedup))


def _survivors(samples: Sequence[Sample], names: Sequence[str], config: SearchConfig) -> list[str]:
    """The fastest runner, and those that may be as fast and worth using."""
    fastest = max(names, key=lambda name: mean_log_speedup(samples, name))
    alpha, min_gain = config.drop_alpha, config.min_gain

    def survives(name: str) -> bool:
        return not _is_slower(samples, name, fastest, alpha) and not _is_slower(
            samples, name, PLAIN, alpha, min_gain
        )

    return [name for name in names if name == fastest or survives(name)]


def _is_slower(
    samples: Sequence[Sample], name: str, other: str, alpha: float, margin: float = 0.0
) -> bool:
    """Whether `name` is significantly less than `margin` faster than `other`."""
    return significantly_worse(_log_speedups(samples, name, other), 0.0, alpha, margin=margin)


def _log_speedups(samples: Sequence[Sample], name: str, other: str) -> list[float]:
    """The median over repeats for each prompt."""
    return list(log_end_to_end_by_prompt(samples, name, other).values())
