"""A Gaussian process over skip masks, shared by the samplers and by tuning while generating.

Inputs are the 0/1 vectors of a space's free sublayers. The kernel is constant · Matérn 5/2 + white
noise with one length scale for all sublayers, so that covariance depends on the Hamming distance
alone: with a few observations per sublayer, one scale for each fits worse and takes longer.
Regression is scikit-learn's; imports are late because they take about a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from skipopt.masks import MaskSpace, SkipMask

if TYPE_CHECKING:
    from numpy import ndarray
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

KAPPA = 2.5  # standard deviations added to the mean, as in SWIFT
MAX_OBSERVATIONS = 100  # the latest ones are used: a fit takes time cubic in their number
RANDOM_CANDIDATES, NEAR_CANDIDATES = 128, 128


class MaskGaussianProcess:
    """Posterior of the objective over the masks of one space.

    Args:
        values: the observations, one or more.
        kernel: of another process whose parameters are kept; by default they maximize the
            likelihood of the observations.

    Attributes:
        kernel: with the parameters used.
    """

    def __init__(
        self, space: MaskSpace, values: Mapping[SkipMask, float], kernel: Kernel | None = None
    ) -> None:
        from sklearn.base import clone

        self._space = space
        self._model = _regressor() if kernel is None else _regressor(kernel, optimizer=None)
        with warnings.catch_warnings():
            # A length scale or noise at its bound only says that the values are flat or exact.
            warnings.simplefilter("ignore")
            self._model.fit(self._inputs(list(values)), list(values.values()))
        self.kernel: Kernel = clone(self._model.kernel_)
        # The posterior is that of the objective without the noise of measuring it.
        self._model.kernel_.set_params(k2__noise_level=0.0)

    def predict(self, masks: Sequence[SkipMask]) -> tuple[ndarray, ndarray]:
        """Mean and standard deviation of each mask's value, each of shape (masks,)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # variances that round to below zero are set to zero
            mean, deviation = self._model.predict(self._inputs(masks), return_std=True)
        return mean, deviation

    def _inputs(self, masks: Sequence[SkipMask]) -> ndarray:
        """The free sublayers as 0/1, of shape (masks, free)."""
        import numpy as np

        rows = [[position in mask.skipped for position in self._space.free] for mask in masks]
        return np.array(rows, dtype=float)


def suggest_mask(space: MaskSpace, values: Mapping[SkipMask, float], rng: Random) -> SkipMask:
    """The candidate with the highest upper confidence bound, mean + κ · standard deviation.

    Candidates are random masks and neighbors of the best one. Takes 0.05–0.1 s.

    SWIFT (arXiv 2410.06916) registers some observations as continuous vectors and others as the
    masks they are rounded to; here all are masks.

    Args:
        values: masks and their values, at least two; higher is better.
    """
    known = list(values)[-MAX_OBSERVATIONS:]
    best = max(known, key=values.__getitem__)
    masks = [space.random(rng) for _ in range(RANDOM_CANDIDATES)] + _near(space, best, rng)
    fresh = [mask for mask in dict.fromkeys(masks) if mask not in values] or masks
    process = MaskGaussianProcess(space, {mask: values[mask] for mask in known})
    mean, deviation = process.predict(fresh)
    return fresh[int((mean + KAPPA * deviation).argmax())]


def _near(space: MaskSpace, mask: SkipMask, rng: Random) -> list[SkipMask]:
    neighbors = list(space.neighbors(mask))
    return rng.sample(neighbors, min(NEAR_CANDIDATES, len(neighbors)))


def _regressor(
    kernel: Kernel | None = None, optimizer: str | None = "fmin_l_bfgs_b"
) -> GaussianProcessRegressor:
    """scikit-learn's regressor; deterministic, because it does not restart its optimizer."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(kernel or _kernel(), optimizer=optimizer, normalize_y=True)


def _kernel() -> Kernel:
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    signal = ConstantKernel(1.0, (0.01, 1000.0)) * Matern(2.0, (0.1, 100.0), nu=2.5)
    return signal + WhiteKernel()
