"""Estimates of `Costs` from the rounds that were just decoded."""

from __future__ import annotations

from skipopt.averages import ROUND_DECAY, MovingAverage
from skipopt.cost_model.costs import Costs
from skipopt.runtime.verify_costs import VerifyCostEstimator


class DraftCostEstimator:
    """What a draft step costs: the step without a mask, less a saving for each skipped sublayer.

    Both are kept as shares of a plain step, so that they stay right when the machine becomes
    slower. Without a draft config the step without a mask is a plain step, and the saving is
    measured. With one, the step without a mask is estimated from the measured steps, and sublayers
    are assumed to take most of it: steps under one mask do not tell the two apart.

    Args:
        sublayers: number of sublayers of the full model.
        cheaper: whether a draft config makes drafts cheaper than the mask alone.
    """

    ASSUMED_SHARE = 0.9  # of a step, all sublayers together
    ASSUMED_BASE = 0.5  # of a plain step, a draft step with a draft config and without a mask

    def __init__(self, sublayers: int, cheaper: bool = False) -> None:
        self._sublayers = sublayers
        self._cheaper = cheaper
        self._base = MovingAverage(ROUND_DECAY)
        self._saving = MovingAverage(ROUND_DECAY)
        self._saving.add(self.ASSUMED_SHARE / sublayers)

    @property
    def base(self) -> float:
        """A draft step without a mask, as a share of a plain step."""
        if not self._cheaper:
            return 1.0
        return self._base.mean if self._base.weight else self.ASSUMED_BASE

    @property
    def saving(self) -> float:
        """Share of a plain step that one skipped sublayer saves; no step costs less than 0."""
        if self._cheaper:
            return self.base * self.ASSUMED_SHARE / self._sublayers
        return min(1 / self._sublayers, max(0.0, self._saving.mean))

    def observe(self, skipped: int, seconds: float, plain: float) -> None:
        """Take in a draft step that skipped `skipped` sublayers; a plain step takes `plain`."""
        if self._cheaper:
            kept = 1 - self.ASSUMED_SHARE * skipped / self._sublayers
            self._base.add_seconds(seconds / plain / kept)
        elif skipped:
            # A step slower than a plain one is noise of the machine: nothing was saved.
            self._saving.add((1 - min(seconds / plain, 1.0)) / skipped)

    def costs(self, verify: VerifyCostEstimator, max_gamma: int) -> Costs:
        """The present estimates as costs of chains of up to `max_gamma` drafted tokens."""
        plain = verify.plain
        sublayer = plain * self.saving
        return Costs(
            overhead=plain * self.base - self._sublayers * sublayer,
            attention=sublayer,
            mlp=sublayer,
            layer_overhead=0.0,
            verify=tuple(verify(rows) for rows in range(1, max_gamma + 2)),
        )
