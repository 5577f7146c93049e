"""Decodes prompt by prompt with several runners, and drops those that cannot win.

So the time goes to the comparisons that are close. All decisions are one-sided paired t tests over
prompts (`stats.significantly_worse`) of the logarithms of speedups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median
from typing import TYPE_CHECKING

from skipopt.bench.metrics import paired_log_ratios
from skipopt.bench.runners import PLAIN
from skipopt.stats import significantly_worse

if TYPE_CHECKING:
    from skipopt.bench.timing import Sample, Timer
    from skipopt.study.config import SearchConfig

MIN_PROMPTS = 2  # of which the samples can be compared


def eliminate(
    timer: Timer,
    kinds: Mapping[str, str],
    config: SearchConfig,
    time_is_up: Callable[[], bool],
    on_step: Callable[[], None],
) -> list[str]:
    """Decode until the time is up, one runner is left, or all repeats are done.

    Each prompt is decoded by all runners before the next one, so the samples are paired whenever
    the time ends; two prompts are decoded however short it is.

    From `min_validation_prompts` prompts on, after each prompt, only the fastest runner of each
    kind is kept: the predictions of its masks differed by less than the prediction error. Of
    these, a runner is dropped if it is significantly slower than the fastest one, or if its gain
    over plain decoding is significantly below `min_gain`.

    Note:
        Each decision has level `drop_alpha`. It is taken after every prompt and repeat, and is
        not corrected for the number of looks, so the best of several equal runners is dropped
        with a higher probability than `drop_alpha`.

    Args:
        timer: runs plain decoding and all runners of `kinds`.
        kinds: runner name -> kind; the runners of a kind differ in their masks only.

    Returns:
        The names of the runners that were not dropped; at least one.
    """
    remaining = list(kinds)
    for _ in range(config.validation_repeats):
        for _prompt in timer.iter_repeat(on_step):
            late = time_is_up()
            prompts = len({sample.prompt for sample in timer.samples})
            if prompts >= config.min_validation_prompts:
                best = _best_of_kinds(timer, kinds, remaining)
                remaining = _survivors(timer.samples, best, config)
                timer.keep([PLAIN, *remaining])
                if _is_futile(timer.samples, remaining, config):
                    return remaining
            if late and prompts >= MIN_PROMPTS:
                return remaining
        # With fewer prompts than `min_validation_prompts`, nothing is dropped.
        if len(remaining) == 1 and timer.samples[-1].repeat:
            return remaining
    return remaining


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
    return mean(_log_speedups(samples, name, PLAIN))


def _best_of_kinds(timer: Timer, kinds: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """The fastest runner of each kind, in the order of `names`."""
    ascending = sorted(names, key=lambda name: mean_log_speedup(timer.samples, name))
    best = {kinds[name]: name for name in ascending}
    return [name for name in names if best[kinds[name]] == name]


def _survivors(samples: Sequence[Sample], names: Sequence[str], config: SearchConfig) -> list[str]:
    """The fastest runner, and those that may be as fast and worth using."""
    fastest = max(names, key=lambda name: mean_log_speedup(samples, name))
    alpha, min_gain = config.drop_alpha, config.min_gain

    def survives(name: str) -> bool:
        return not _is_slower(samples, name, fastest, alpha) and not _is_slower(
            samples, name, PLAIN, alpha, min_gain
        )

    return [name for name in names if name == fastest or survives(name)]


def _is_futile(samples: Sequence[Sample], names: Sequence[str], config: SearchConfig) -> bool:
    """Whether the only runner left is significantly below the least gain."""
    if len(names) > 1:
        return False
    return _is_slower(samples, names[0], PLAIN, config.drop_alpha, config.min_gain)


def _is_slower(
    samples: Sequence[Sample], name: str, other: str, alpha: float, margin: float = 0.0
) -> bool:
    """Whether `name` is significantly less than `margin` faster than `other`."""
    return significantly_worse(_log_speedups(samples, name, other), 0.0, alpha, margin=margin)


def _log_speedups(samples: Sequence[Sample], name: str, other: str) -> list[float]:
    """The median over repeats for each prompt."""
    return [median(repeats) for repeats in paired_log_ratios(samples, name, other)]
