"""What things cost and yield at present, as averages that forget.

Knows nothing of models, drafts or clocks: seconds are told.
"""

from __future__ import annotations

from dataclasses import dataclass

# A reading this many times what is expected tells of the machine, and not of the model.
SPIKE = 3.0


@dataclass(slots=True)
class Average:
    """A mean in which each reading counts less with every later one.

    Attributes:
        keep: what is left of a reading's weight after one more.
        weight: of all readings so far; at most 1 / (1 − keep).
        total, squares: weighted sums of readings and of their squares.
    """

    keep: float = 0.9
    weight: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.weight = self.keep * self.weight + 1
        self.total = self.keep * self.total + value
        self.squares = self.keep * self.squares + value * value

    def add_seconds(self, value: float) -> None:
        """A reading of a clock: spikes are cut."""
        self.add(min(value, SPIKE * self.mean) if self.weight else value)

    @property
    def mean(self) -> float:
        """0 before the first reading."""
        return self.total / self.weight if self.weight else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean, as if readings were independent; infinite below two."""
        if self.weight <= 1:
            return float("inf")
        variance = max(0.0, self.squares / self.weight - self.mean**2)
        return float((variance / (self.weight - 1)) ** 0.5)


class VerifyCost:
    """Seconds of the target's forward over n rows: one row apart, a straight line from two on.

    One row runs on kernels of its own, so it lies off the line. What has not been seen yet is
    taken for a share of what has.
    """

    # Of one plain step, before anything is known: what a second row costs, and each further one.
    JUMP, SLOPE = 0.3, 0.05

    def __init__(self) -> None:
        self._one = Average()
        # Weighted moments of (rows, seconds) from two rows on.
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    @property
    def plain(self) -> float:
        """Seconds of a plain step; 0 while nothing at all is known."""
        if self._one.weight:
            return self._one.mean
        if not self._weight:
            return 0.0
        return self._mean_seconds / (1 + self.JUMP + self.SLOPE * (self._mean_rows - 1))

    @property
    def knows_plain(self) -> bool:
        """A plain step has been seen."""
        return self._one.weight > 0

    @property
    def per_row(self) -> float:
        """Seconds of one row more, from two on; never negative."""
        if not self._weight:
            return self.SLOPE * self.plain
        spread = self._squares / self._weight - self._mean_rows**2
        together = self._products / self._weight - self._mean_rows * self._mean_seconds
        # As if the line guessed above had been seen too: one length alone has no slope.
        return max(0.0, (together + self.SLOPE * self.plain) / (spread + 1))

    @property
    def _mean_rows(self) -> float:
        return self._rows / self._weight

    @property
    def _mean_seconds(self) -> float:
        return self._seconds / self._weight

    def __call__(self, rows: int) -> float:
        """Expected seconds; 0 while nothing is known."""
        if rows == 1:
            return self.plain
        if not self._weight:
            return self.plain * (1 + self.JUMP + self.SLOPE * (rows - 1))
        return max(self.plain, self._mean_seconds + self.per_row * (rows - self._mean_rows))

    def observe(self, rows: int, seconds: float) -> None:
        """One forward over so many rows took so long."""
        if rows == 1:
            self._one.add_seconds(seconds)
            return
        if expected := self(rows):
            seconds = min(seconds, SPIKE * expected)
        moments = (1.0, rows, seconds, rows * rows, rows * seconds)
        before = (self._weight, self._rows, self._seconds, self._squares, self._products)
        keep = self._one.keep
        self._weight, self._rows, self._seconds, self._squares, self._products = (
            keep * old + new for old, new in zip(before, moments, strict=True)
        )
