"""Which mask to try next, by a Gaussian process over the masks tried so far.

SWIFT (arXiv 2410.06916) registers some of its points as continuous vectors and others as the
masks they stand for; here all are masks. Knows nothing of what a value means.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from skipopt.masks import MaskSpace, SkipMask

if TYPE_CHECKING:
    from numpy import ndarray

KAPPA = 2.5  # standard deviations of optimism, as SWIFT has it
LATEST = 100  # observations that the process sees: its time grows with their cube
AT_RANDOM, NEARBY = 128, 128  # candidates


def suggest(
    space: MaskSpace, values: Mapping[SkipMask, float], rng: Random, seed: int
) -> SkipMask:
    """The candidate of highest mean + κ standard deviations (an upper confidence bound).

    Candidates are masks at random and neighbours of the best so far. Takes 0.05–0.1 s.

    Args:
        values: what is known, at least two masks; higher is better.
    """
    from skopt.acquisition import gaussian_lcb

    known = list(values)[-LATEST:]
    best = max(known, key=values.__getitem__)
    masks = [space.random(rng) for _ in range(AT_RANDOM)] + _around(space, best, rng)
    fresh = [mask for mask in dict.fromkeys(masks) if mask not in values] or masks
    model = _fit(_inputs(space, known), [-values[mask] for mask in known], seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # variances that round to below zero
        bounds = gaussian_lcb(_inputs(space, fresh), model, kappa=KAPPA)
    return fresh[int(bounds.argmin())]


def _around(space: MaskSpace, mask: SkipMask, rng: Random) -> list[SkipMask]:
    neighbours = list(space.neighbors(mask))
    return rng.sample(neighbours, min(NEARBY, len(neighbours)))


def _fit(inputs: ndarray, values: Sequence[float], seed: int) -> Any:
    """scikit-optimize minimises: values come negated."""
    from skopt.learning import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern

    # One length scale: on 0/1 inputs the kernel is then a function of the Hamming distance.
    kernel = ConstantKernel(1.0, (0.01, 1000.0)) * Matern(2.0, (0.1, 100.0), nu=2.5)
    model = GaussianProcessRegressor(
        kernel, normalize_y=True, noise="gaussian", random_state=seed % 2**32
    )
    with warnings.catch_warnings():
        # A length scale or noise at its bound says that the values are flat or exact.
        warnings.simplefilter("ignore")
        return model.fit(inputs, values)


def _inputs(space: MaskSpace, masks: Sequence[SkipMask]) -> ndarray:
    """0/1 of the free positions.  # (masks, free)"""
    import numpy as np

    rows = [[i in mask.skipped for i in space.free] for mask in masks]
    return np.array(rows, dtype=float)
