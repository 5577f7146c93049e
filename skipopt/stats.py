"""From paired log-ratios to a speedup with an interval. Knows nothing of what was timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

RESAMPLES = 4000
CONFIDENCE = 0.95
FEWEST_TO_RESAMPLE = 3


@dataclass(frozen=True, slots=True)
class Interval:
    """A median ratio, and the range its true value lies in with 95 % confidence."""

    median: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def ratio_interval(log_ratios: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Median over prompts of each prompt's median ratio; bootstrap interval over prompts.

    Prompts are resampled, not repeats: repeats of one prompt are not independent of each other.
    One or two prompts cannot be resampled to any purpose; the interval then spans every single
    ratio, which is wider than any bootstrap of them.

    Args:
        log_ratios: natural logarithms of ratios, one sequence of repeats for each prompt.

    Raises:
        ValueError: there are no ratios.
    """
    if not any(log_ratios):
        raise ValueError("an interval needs at least one ratio")
    centres = [median(repeats) for repeats in log_ratios if repeats]
    if len(centres) < FEWEST_TO_RESAMPLE:
        every = [value for repeats in log_ratios for value in repeats]
        low, high = min(every), max(every)
    else:
        low, high = _bootstrap(centres, seed)
    return Interval(math.exp(median(centres)), math.exp(low), math.exp(high))


def _bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    # Percentile: the bias-corrected interval is undefined where all values are equal.
    found = bootstrap(
        (np.asarray(values),),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
