"""The speedup that entrants of a validation are expected to have on other text.

The entrant with the largest measured mean is partly lucky: its mean is larger than what it will
reach on other text, the more so the fewer prompts there are and the more they differ. So means are
shrunken toward the predictions, as far as they are noisy.

Entrant i has a mean log speedup θᵢ over all text. Validation measures means m of it, as averages
over categories of the averages over their prompts, m ~ N(θ, V). Predictions x = ln(speedup) were
made on other texts: θ ~ N(x, T) with T = τ² (I + 4 · 11ᵀ), since each of them errs by τ, and all
of them together by 2τ. Then

    E[θ | m] = x + T (T + V)⁻¹ (m − x),    Cov[θ | m] = T − T (T + V)⁻¹ T,

averaged over τ with weights p(τ) N(m; x, T + V). With one common τ and a diagonal V, this is the
estimator of James and Stein as empirical Bayes (Efron and Morris, 1973, JASA 68:117), with
predictions in place of the grand mean. V is not diagonal, because all entrants decode the same
prompts and are divided by the same plain decoding: what prompts add to all of them alike does not
make their differences less certain.

The categories of prompts count as the independent observations in V. So a method that is fast on
one kind of text only has a large variance and is shrunken most.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from skipopt.stats import Interval

Floats = NDArray[np.float64]

TYPICAL_ERROR = 0.1  # τ of typical predictions: half of the prior of τ lies below it
ERRORS = np.geomspace(0.005, 1.0, 32)  # the τ that are averaged over
SHARED_ERROR = 2.0  # of all predictions together, in τ
UNPREDICTED_ERROR = 0.3  # of a θ that was not predicted, around the mean prediction
MIN_CATEGORIES = 4  # with fewer of them, every prompt is a category of its own
POOLED_WEIGHT = 2.0  # categories that the (geometric) mean variance of entrants counts for
LEAST_DEVIATION = 0.02  # of the log speedup of one category: timing is not more exact
NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Entrant:
    """What is known of an entrant.

    Attributes:
        log_speedups: by prompt; an entrant that was dropped early has fewer of them.
        predicted: its predicted speedup; None if it has no prediction.
    """

    log_speedups: Mapping[int, float]
    predicted: float | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """Mean and standard deviation of an entrant's mean log speedup on other text."""

    log_speedup: float
    deviation: float

    @property
    def interval(self) -> Interval:
        """The expected speedup with a 95 % interval."""
        spread = NORMAL_95 * self.deviation
        low, middle, high = (exp(self.log_speedup + d) for d in (-spread, 0.0, spread))
        return Interval(middle, low, high)


def expected_speedups(
    entrants: Sequence[Entrant], categories: Sequence[Hashable | None] = ()
) -> list[Expected]:
    """What each entrant is expected to reach on other text.

    Args:
        entrants: at least one of them has decoded every prompt that any has decoded.
        categories: of each prompt, by its index; empty if there are none.

    Raises:
        ValueError: there are no measurements.
    """
    measured, noise = _measured(entrants, categories)
    predicted = _log_predictions(entrants)
    prior = _prior_covariances(entrants)  # (τ, K, K)
    errors = measured - predicted
    weights = _weights(errors, prior + noise)
    gain = np.linalg.solve(prior + noise, prior).swapaxes(1, 2)
    means = gain @ errors  # (τ, K)
    variances = np.diagonal(prior - gain @ prior, axis1=1, axis2=2)
    mean = np.average(means, 0, weights)
    variance = np.average(variances + (means - mean) ** 2, 0, weights)
    return [
        Expected(float(log_speedup), float(deviation))
        for log_speedup, deviation in zip(predicted + mean, variance**0.5, strict=True)
    ]


def _prior_covariances(entrants: Sequence[Entrant]) -> Floats:
    """T for each τ.  # (τ, K, K)"""
    unpredicted = [0.0 if each.predicted else UNPREDICTED_ERROR**2 for each in entrants]
    errors = np.eye(len(entrants)) + SHARED_ERROR**2
    found: Floats = ERRORS[:, None, None] ** 2 * errors + np.diag(unpredicted)
    return found


def _weights(errors: Floats, covariances: Floats) -> Floats:
    """The weight of each τ: its half-Cauchy prior times the likelihood of m − x.

    Args:
        errors: m − x.  # (K,)
        covariances: T + V.  # (τ, K, K)
    """
    distances = np.linalg.solve(covariances, errors[:, None])[..., 0] @ errors
    log_likelihoods = -0.5 * (np.linalg.slogdet(covariances)[1] + distances)
    # The factor τ is the distance between values that are spaced evenly in their logarithm.
    log_priors = np.log(ERRORS) - np.log1p((ERRORS / TYPICAL_ERROR) ** 2)
    found: Floats = np.exp(log_likelihoods + log_priors - np.max(log_likelihoods + log_priors))
    return found


def _log_predictions(entrants: Sequence[Entrant]) -> Floats:
    """x; the mean of the others, or 0 without any, for an entrant that was not predicted."""
    known = [log(each.predicted) for each in entrants if each.predicted]
    unknown = fmean(known) if known else 0.0
    return np.array([log(e.predicted) if e.predicted else unknown for e in entrants])


def _measured(
    entrants: Sequence[Entrant], categories: Sequence[Hashable | None]
) -> tuple[Floats, Floats]:
    """m and V."""
    prompts = sorted(set[int]().union(*(each.log_speedups for each in entrants)))
    if not prompts:
        raise ValueError("an expected speedup needs at least one measurement")
    by_prompt = _complete(entrants, prompts)
    by_category = _category_means(by_prompt, [_category(categories, each) for each in prompts])
    count = len(by_category)
    deviations = by_category - by_category.mean(0)
    scatter = deviations.T @ deviations  # (K, K)
    scatter += max(1, count - 1) * LEAST_DEVIATION**2 * np.eye(len(entrants))
    pooled = np.exp(np.log(np.diag(scatter)).mean()) / max(1, count - 1)
    freedom = count - 1 + POOLED_WEIGHT
    covariance = (scatter + POOLED_WEIGHT * pooled * np.eye(len(entrants))) / freedom
    # An entrant that was dropped early is known from fewer prompts.
    scale = np.array([(len(prompts) / len(each.log_speedups)) ** 0.5 for each in entrants])
    return by_category.mean(0), covariance * np.outer(scale, scale) / count


def _complete(entrants: Sequence[Entrant], prompts: Sequence[int]) -> Floats:
    """The log speedups, by prompt and entrant.  # (N, K)

    On prompts that an entrant has not decoded, it is taken to be as far behind the mean of those
    that have decoded all as it was on its own prompts.
    """
    whole = [each.log_speedups for each in entrants if len(each.log_speedups) == len(prompts)]
    mean = {prompt: fmean(each[prompt] for each in whole) for prompt in prompts}

    def column(found: Mapping[int, float]) -> list[float]:
        ahead = fmean(value - mean[prompt] for prompt, value in found.items())
        return [found.get(prompt, mean[prompt] + ahead) for prompt in prompts]

    return np.array([column(each.log_speedups) for each in entrants]).T


def _category(categories: Sequence[Hashable | None], prompt: int) -> Hashable:
    """The category of a prompt; one of its own where it has none."""
    named = {each for each in categories if each is not None}
    own = categories[prompt] if categories else None
    return prompt if own is None or len(named) < MIN_CATEGORIES else own


def _category_means(by_prompt: Floats, categories: Sequence[Hashable]) -> Floats:
    """Means over the prompts of each category.  # (N, K) -> (C, K)"""
    groups: dict[Hashable, list[int]] = {}
    for row, category in enumerate(categories):
        groups.setdefault(category, []).append(row)
    return np.array([by_prompt[rows].mean(0) for rows in groups.values()])
