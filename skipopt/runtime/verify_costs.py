"""Estimates of what a forward over several rows takes, from those that just ran."""

from __future__ import annotations

from collections import defaultdict

from skipopt.averages import MAX_SPIKE, MovingAverage, StepSeconds


class VerifyCostEstimator:
    """Seconds of the target's forward over n rows: one row by itself, about a line from two on.

    One row runs on other kernels than several do, so it does not lie on the line. Kernels take a
    few rows together, so costs rise in steps: each number of rows has its own measured share of
    the line, shrunk towards 1. What has not been measured yet is assumed to be a fixed share of
    what has. A tree takes longer than a chain of as many rows, for its mask: by one factor.
    """

    # Assumed before they are measured, in plain steps: a second row, and each further one.
    SECOND_ROW, FURTHER_ROW = 0.15, 0.07
    TREE = 1.15  # of a chain of as many rows
    LINE_WEIGHT = 2.0  # readings of one number of rows that the line counts for
    MAX_SHARE = 1.5  # of the line, or its inverse: a reading beyond is an outlier, and is cut
    FEW = 4  # readings of a plain step, which is to be measured again sooner
    SOONER = 36  # rounds by which it is

    def __init__(self) -> None:
        self._one = StepSeconds()
        # From two rows on; the last two average squares, and products with seconds.
        self._rows, self._seconds = MovingAverage(), MovingAverage()
        self._squares, self._products = MovingAverage(), MovingAverage()
        self._shares: defaultdict[int, MovingAverage] = defaultdict(MovingAverage)
        self._tree = MovingAverage()
        self._plain_readings = 0
        self._since_plain = 0

    @property
    def plain_age(self) -> int:
        """Rounds since a plain step was measured, in all texts; more if it seldom was so far."""
        return self._since_plain + (self.SOONER if self._plain_readings < self.FEW else 0)

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

    @property
    def tree(self) -> float:
        """Seconds of a tree for those of a chain of as many rows; never below 1."""
        read, prior = self._tree, self.LINE_WEIGHT
        return max(1.0, (read.total + prior * self.TREE) / (read.weight + prior))

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
            self._plain_readings += 1
            self._since_plain = 0
            return
        self._since_plain += 1
        if self._rows.weight:
            line = self._line(rows, self.per_row)
            seconds = min(seconds, MAX_SPIKE * line)
            share = max(1 / self.MAX_SHARE, min(seconds / line, self.MAX_SHARE))
            self._shares[rows].add(share)
        self._rows.add(rows)
        self._seconds.add(seconds)
        self._squares.add(rows * rows)
        self._products.add(rows * seconds)

    def observe_tree(self, rows: int, seconds: float) -> None:
        """Take in one measured forward over a tree; it says nothing of chains."""
        self._since_plain += 1
        share = seconds / self(rows)
        self._tree.add(max(1 / self.MAX_SHARE, min(share, self.MAX_SHARE)))

    def _guess(self, rows: float) -> float:
        """Plain steps that two or more rows are assumed to cost."""
        return 1 + self.SECOND_ROW + self.FURTHER_ROW * (rows - 1)
