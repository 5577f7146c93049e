"""What things cost and yield at present, as averages that forget.

Knows nothing of models, drafts or clocks: seconds are told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A reading this many times what is expected tells of the machine, and not of the model.
SPIKE = 3.0
RECENT = 0.97  # weight of a round after one more: about the last thirty count


@dataclass(slots=True)
class MovingAverage:
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


@dataclass(slots=True)
class Throughput:
    """What rounds yield and take of late.

    Attributes:
        tokens, seconds: of a round.
    """

    tokens: MovingAverage = field(default_factory=lambda: MovingAverage(RECENT))
    seconds: MovingAverage = field(default_factory=lambda: MovingAverage(RECENT))

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens.add(tokens)
        self.seconds.add_seconds(seconds)

    @property
    def known(self) -> bool:
        return self.tokens.weight > 0

    @property
    def per_second(self) -> float:
        """Tokens a second; 0 while nothing is known."""
        return self.tokens.mean / self.seconds.mean if self.seconds.mean else 0.0

    def gain(self, rate: float) -> float:
        """Tokens of a round beyond what `rate` tokens a second make of its time."""
        return self.tokens.mean - rate * self.seconds.mean


class VerifyCostEstimator:
    """Seconds of the target's forward over n rows: one row apart, a straight line from two on.

    One row runs on kernels of its own, so it lies off the line. What has not been seen is taken
    for a share of what has.
    """

    # Of one plain step, before it is known: what a second row costs, and each further one.
    JUMP, SLOPE = 0.3, 0.05

    def __init__(self) -> None:
        self._one = MovingAverage()
        # From two rows on; the last two are means of squares and of products with seconds.
        self._rows, self._seconds, self._squares, self._products = (
            MovingAverage() for _ in range(4)
        )

    @property
    def knows_plain(self) -> bool:
        """Has a plain step been seen?"""
        return self._one.weight > 0

    @property
    def plain(self) -> float:
        """Seconds of a plain step; 1, as a unit, while nothing is known."""
        if self._one.weight:
            return self._one.mean
        if not self._rows.weight:
            return 1.0
        return self._seconds.mean / (1 + self.JUMP + self.SLOPE * (self._rows.mean - 1))

    @property
    def per_row(self) -> float:
        """Seconds of one row more, from two on; never negative."""
        guess = self.SLOPE * self.plain
        spread = self._squares.mean - self._rows.mean**2
        together = self._products.mean - self._rows.mean * self._seconds.mean
        # As if a little of the guessed line had been seen, too: one length alone has no slope.
        return max(0.0, (together + guess) / (spread + 1))

    def __call__(self, rows: int) -> float:
        """Expected seconds."""
        if rows == 1:
            return self.plain
        if not self._rows.weight:
            return self.plain * (1 + self.JUMP + self.SLOPE * (rows - 1))
        return max(self.plain, self._seconds.mean + self.per_row * (rows - self._rows.mean))

    def observe(self, rows: int, seconds: float) -> None:
        """A forward over so many rows took so long."""
        if rows == 1:
            self._one.add_seconds(seconds)
            return
        if self._rows.weight:
            seconds = min(seconds, SPIKE * self(rows))
        self._rows.add(rows)
        self._seconds.add(seconds)
        self._squares.add(rows * rows)
        self._products.add(rows * seconds)


class DraftCostEstimator:
    """Seconds of a draft step by how many sublayers it skips: a plain step less the same for each.

    The saving is learned from drafted rounds, as a share of a plain step, so that it stands when
    the machine becomes slower. Until then sublayers are taken for most of a plain step.

    Args:
        sublayers: of the whole model.
    """

    GUESS = 0.9  # of a plain step that all sublayers together take

    def __init__(self, sublayers: int) -> None:
        self._most = 1 / sublayers  # no step costs less than nothing
        self._saving = MovingAverage(RECENT)
        self._saving.add(self.GUESS / sublayers)

    def __call__(self, skipped: int, plain: float) -> float:
        """Expected seconds of a step that skips so many sublayers; a plain step takes `plain`."""
        saving = min(self._most, max(0.0, self._saving.mean))
        return plain * (1 - saving * skipped)

    def observe(self, skipped: int, seconds: float, plain: float) -> None:
        """A step that skipped so many sublayers took so long."""
        if skipped:
            # A slow moment of the machine says no more than that nothing was saved.
            self._saving.add((1 - min(seconds / plain, 1.0)) / skipped)
