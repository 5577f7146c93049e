"""Statistics of paired measurements: ratios with intervals, means with errors, tests of loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Literal

RESAMPLES = 4000
CONFIDENCE = 0.95
MIN_RESAMPLED = 3
TRIMMED = 0.2  # share of the values that a trimmed mean leaves out at either end

Side = Literal["above", "below", "straddles"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A median ratio, and the range its true value lies in with 95 % confidence."""

    median: float
    low: float
    high: float

    def side_of(self, threshold: float) -> Side:
        """On which side of `threshold` the whole interval lies; its lower end counts as above."""
        if self.low >= threshold:
            return "above"
        return "below" if self.high < threshold else "straddles"

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def ratio_interval(log_ratios: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Median over prompts of each prompt's median ratio, with a bootstrap interval over prompts.

    Prompts are resampled and not repeats, because repeats of one prompt are not independent.
    Resampling one or two prompts gives no useful interval. The interval then spans all single
    ratios, which is wider than any bootstrap interval of them.

    Args:
        log_ratios: natural logarithms of ratios, one sequence of repeats for each prompt.
        seed: of the resampling.

    Raises:
        ValueError: there are no ratios.
    """
    if not any(log_ratios):
        raise ValueError("an interval needs at least one ratio")
    centers = [median(repeats) for repeats in log_ratios if repeats]
    if len(centers) < MIN_RESAMPLED:
        every = [value for repeats in log_ratios for value in repeats]
        low, high = min(every), max(every)
    else:
        low, high = _bootstrap(centers, seed)
    return Interval(math.exp(median(centers)), math.exp(low), math.exp(high))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its standard error, and the degrees of freedom of that error.

    The degrees may be infinite: the error is then known, not estimated.
    """

    mean: float
    error: float
    degrees: float

    def plus_error(self, error: float) -> Estimate:
        """With an independent error whose size is known (degrees as Welch and Satterthwaite)."""
        total = math.hypot(self.error, error)
        ratio = total / self.error if self.error else math.inf
        return Estimate(self.mean, total, self.degrees * ratio**4 if self.degrees else 0.0)

    def bounds(self, error_rate: float) -> tuple[float, float]:
        """Two bounds; the mean lies beyond either of them with a probability of `error_rate`."""
        if not self.degrees:
            return -math.inf, math.inf
        from scipy.special import ndtri, stdtrit  # quantiles of the normal and the t distribution

        certain = 1 - error_rate
        known = math.isinf(self.degrees)
        width = float(ndtri(certain) if known else stdtrit(self.degrees, certain)) * self.error
        return self.mean - width, self.mean + width


def trimmed_mean(values: Sequence[float]) -> Estimate:
    """The mean of `values` without the outer fifths, which single outliers do not move.

    Its error is that of Yuen (1974), from the variance in which the outer values are replaced by
    the nearest ones kept. Fewer than five values are all kept.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    ordered, count = sorted(values), len(values)
    cut = int(TRIMMED * count)
    kept = ordered[cut : count - cut]
    if count == 1:
        return Estimate(kept[0], math.inf, 0.0)
    winsorized = [*kept[:1] * cut, *kept, *kept[-1:] * cut]
    center = fmean(winsorized)
    squares = math.fsum((each - center) ** 2 for each in winsorized)
    error = math.sqrt(squares / (len(kept) * (len(kept) - 1)))
    return Estimate(fmean(kept), error, len(kept) - 1)


def significantly_worse(
    candidate: Sequence[float],
    reference: Sequence[float] | float,
    alpha: float,
    *,
    margin: float = 0.0,
) -> bool:
    """Whether the mean of `candidate` lies below that of `reference` plus `margin`.

    A one-sided paired t test (`scipy.stats.ttest_1samp` of the differences). Higher values are
    better.

    Note:
        A pruner or a race that asks after every prompt looks at growing samples of the same pair.
        Each look has a false-positive probability of `alpha`, so that of the whole sequence is
        higher (as in `optuna.pruners.WilcoxonPruner`). It is not corrected here: the caller
        chooses `alpha` for one look and says how many looks it takes.

    Note:
        A candidate whose mean is not below that of the reference is never called worse, whatever
        `alpha` is. So the best mean seen so far is never pruned.

    Note:
        A t test and not the signed-rank test of `WilcoxonPruner`, because decisions fall after
        four prompts: the smallest one-sided p of a signed-rank test of four pairs is 1/16.

    Args:
        candidate: one value for each prompt.
        reference: values of the same prompts in the same order, or one constant for all of them.
        alpha: significance level of this one look.
        margin: what the candidate must be ahead by, in the unit of the values.

    Returns:
        False where there are fewer than two pairs.

    Raises:
        ValueError: `candidate` and `reference` are not equally long.
    """
    values = [reference] * len(candidate) if isinstance(reference, float | int) else reference
    differences = [c - r - margin for c, r in zip(candidate, values, strict=True)]
    if len(differences) < 2 or fmean(differences) >= 0:
        return False
    if math.isclose(min(differences), max(differences)):
        return True  # no variance, for which the t statistic is infinite
    from scipy.stats import ttest_1samp

    return bool(ttest_1samp(differences, 0.0, alternative="less").pvalue < alpha)


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
