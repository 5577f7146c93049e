"""Bayesian optimisation with scikit-optimize's Gaussian process and expected improvement.

Takes the regressor and the acquisition function of scikit-optimize and leaves its `Optimizer`,
which would maximise over masks of any density, ignore a fixed skip count, return numpy integers,
repeat a batch that was not told, replace seen points by random ones, and fit one length scale per
sublayer: slow, and at fewer observations than a few per sublayer worse than one scale for all.
Here the acquisition climbs over unvisited masks from the best ones, and a batch is filled by
believing the model's own predictions for the masks already chosen.

The model sees at most `CAPACITY` observations, so that time does not grow with the study: one mask
costs 0.04–0.07 s over 32 or 64 sublayers (one core), a batch of eight eight times that, `tell`
nothing.
Source: scikit-optimize 0.10.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry, step, take
from skipopt.samplers.initial_masks import initial_masks

if TYPE_CHECKING:
    from numpy import ndarray

STARTS = 10
CAPACITY = 100
CLIMBERS = 4
STEPS = 32
CLIMBS = 6


class BayesSampler:
    """Masks of highest expected improvement; sparse masks first, where little is known."""

    def __init__(self, space: MaskSpace, seed: int, visited: MaskRegistry | None = None) -> None:
        self._space = space
        self._seed = seed
        self._rng = Random(seed)
        self._visited = MaskRegistry(space, self._rng) if visited is None else visited
        self._starts = initial_masks(space, self._rng, STARTS)

    def ask(self, count: int) -> list[SkipMask]:
        return take(self.proposals(), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        self._visited.record(mask, value)

    def proposals(self) -> Iterator[SkipMask]:
        """Claimed masks, while there are any."""
        if len(self._visited.values) < STARTS:
            yield from filter(self._visited.claim, self._starts)
        known = self._observations()
        while not self._visited.exhausted:
            mask = self._improve(known) if len(known) > 1 else self._visited.random()
            if mask is not None:
                yield mask

    def _observations(self) -> dict[SkipMask, float]:
        """At most `CAPACITY` told values: the best, and of the others the latest."""
        values = self._visited.values
        by_value = sorted(values, key=lambda mask: -values[mask])
        best = by_value[: CAPACITY // 2]
        chosen = set(best)
        latest = [mask for mask in values if mask not in chosen][-(CAPACITY - len(best)) :]
        return {mask: values[mask] for mask in best + latest}

    def _improve(self, known: dict[SkipMask, float]) -> SkipMask | None:
        """Claim the best mask the model can find, and believe its prediction in `known`."""
        model = _fit(self._space, known, self._seed)
        top = max(known.values())
        pool = sorted(known, key=lambda mask: -known[mask])[:CLIMBERS]
        found: dict[SkipMask, float] = {}
        for _ in range(CLIMBS):
            fresh = [mask for mask in self._around(pool) if mask not in found]
            if not fresh:
                break
            found.update(zip(fresh, _improvement(self._space, model, fresh, top), strict=True))
            pool = sorted(found, key=lambda mask: -found[mask])[:CLIMBERS]
        if not found:
            return self._visited.near(pool[0])
        self._visited.claim(pool[0])
        known[pool[0]] = _prediction(self._space, model, pool[0])
        return pool[0]

    def _around(self, pool: Sequence[SkipMask]) -> list[SkipMask]:
        """Unvisited masks one or two steps from those of the pool."""
        masks: list[SkipMask] = []
        for centre in pool:
            once = [step(self._space, centre, self._rng) for _ in range(STEPS)]
            twice = [step(self._space, mask, self._rng) for mask in once]
            masks += once + twice
        return [mask for mask in dict.fromkeys(masks) if mask not in self._visited]


def _fit(space: MaskSpace, known: Mapping[SkipMask, float], seed: int) -> Any:
    """A Gaussian process of the negated values: scikit-optimize minimises."""
    from skopt.learning import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import (
        ConstantKernel,
        Matern,
    )

    # One length scale: on 0/1 inputs the kernel is then a function of the Hamming distance.
    kernel = ConstantKernel(1.0, (0.01, 1000.0)) * Matern(2.0, (0.1, 100.0), nu=2.5)
    model = GaussianProcessRegressor(
        kernel, normalize_y=True, noise="gaussian", random_state=seed % 2**32
    )
    with warnings.catch_warnings():
        # A length scale or noise at its bound says that the values are flat or exact.
        warnings.simplefilter("ignore")
        return model.fit(_inputs(space, list(known)), [-value for value in known.values()])


def _improvement(
    space: MaskSpace, model: Any, masks: Sequence[SkipMask], top: float
) -> list[float]:
    """Expected improvement of each mask over the value `top`."""
    from skopt.acquisition import gaussian_ei

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # variances that round to below zero
        gains = gaussian_ei(_inputs(space, masks), model, y_opt=-top)
    return [float(gain) for gain in gains]


def _prediction(space: MaskSpace, model: Any, mask: SkipMask) -> float:
    return -float(model.predict(_inputs(space, [mask]))[0])


def _inputs(space: MaskSpace, masks: Sequence[SkipMask]) -> ndarray:
    """0/1 of the free positions.  # (masks, free)"""
    import numpy as np

    rows = [[i in mask.skipped for i in space.free] for mask in masks]
    return np.array(rows, dtype=float)
