"""Estimates of `Costs` from the rounds that were just decoded."""

from __future__ import annotations

from collections import defaultdict

from skipopt.cost_model.costs import Costs
from skipopt.online.averages import MAX_SPIKE, ROUND_DECAY, MovingAverage


class VerifyCostEstimator:
    """Seconds of the target's forward over n rows: one row by itself, about a line from two on.

    One row runs on other kernels than several do, so it does not lie on the line. Kernels take a
    few rows together, so costs rise in steps: each number of rows has its own measured share of
    the line, shrunk towards 1. What has not been measured yet is assumed to be a fixed share of
    what has.
    """

    # Assumed before they are measured, in plain steps: a second row, and each further one.
    SECOND_ROW, FURTHER_ROW = 0.15, 0.07
    LINE_WEIGHT = 2.0  # readings of one number of rows that the line counts for
    MAX_SHARE = 1.5  # of the line, or its inverse: a reading beyond is an outlier, and is cut

    def __init__(self) -> None:
        self._one = MovingAverage()
        # From two rows on; the last two average squares, and products with seconds.
        self._rows, self._seconds = MovingAverage(), MovingAverage()
        self._squares, self._products = MovingAverage(), MovingAverage()
        self._shares: defaultdict[int, MovingAverage] = defaultdict(MovingAverage)

    @property
    def knows_plain(self) -> bool:
        """Whether a plain step has been measured."""
        return self._one.weight > 0

    @property
    def plain(self) -> float:
        """Seconds of a plain step; 1, as a unit, while nothing has been measured."""
        if self._one.weight:
            return self._one.mean
        if not self._rows.weight:
            return 1.0
        return self._seconds.mean / self._guess(self._rows.mean)

    @property
    def per_row(self) -> float:
        """Seconds of one more row, from two on; never negative."""
        guess = self.FURTHER_ROW * self.plain
        variance = self._squares.mean - self._rows.mean**2
        covariance = self._products.mean - self._rows.mean * self._seconds.mean
        # Least squares, shrunk towards the guess: readings of one length alone have no slope.
        return max(0.0, (covariance + guess) / (variance + 1))

    def __call__(self, rows: int) -> float:
        """Expected seconds of a forward over `rows` rows."""
        return self.up_to(rows)[-1]

    def up_to(self, most: int) -> list[float]:
        """Expected seconds of forwards over 1, 2, … `most` rows; more rows never cost less."""
        found, slope = [self.plain], self.per_row
        for rows in range(2, most + 1):
            found.append(max(found[-1], self._line(rows, slope) * self._share(rows)))
        return found

    def _line(self, rows: int, slope: float) -> float:
        """Of two or more rows, by the straight line alone."""
        if not self._rows.weight:
            return self.plain * self._guess(rows)
        return max(self.plain, self._seconds.mean + slope * (rows - self._rows.mean))

    def _share(self, rows: int) -> float:
        """What this number of rows takes of the line."""
        if rows not in self._shares:
            return 1.0
        own = self._shares[rows]
        return (own.total + self.LINE_WEIGHT) / (own.weight + self.LINE_WEIGHT)

    def observe(self, rows: int, seconds: float) -> None:
        """Take in one measured forward."""
        if rows == 1:
            self._one.add_seconds(seconds)
            return
        if self._rows.weight:
            line = self._line(rows, self.per_row)
            seconds = min(seconds, MAX_SPIKE * line)
            share = max(1 / self.MAX_SHARE, min(seconds / line, self.MAX_SHARE))
            self._shares[rows].add(share)
        self._rows.add(rows)
        self._seconds.add(seconds)
        self._squares.add(rows * rows)
        self._products.add(rows * seconds)

    def _guess(self, rows: float) -> float:
        """Plain steps that two or more rows are assumed to cost."""
        return 1 + self.SECOND_ROW + self.FURTHER_ROW * (rows - 1)


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
