"""Exponentially weighted averages of readings, and the throughput of rounds made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_SPIKE = 3.0  # a time this many times the expected one is an outlier, and is cut to that
ROUND_DECAY = 0.97  # for readings of rounds: about the last thirty count


@dataclass(slots=True)
class MovingAverage:
    """An exponentially weighted moving average.

    Attributes:
        decay: what remains of a reading's weight after one more reading.
        weight: sum of all weights; at most 1 / (1 − decay).
        total, squares: weighted sums of the readings and of their squares.
    """

    decay: float = 0.9
    weight: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take in one reading."""
        self.weight = self.decay * self.weight + 1
        self.total = self.decay * self.total + value
        self.squares = self.decay * self.squares + value * value

    def add_seconds(self, value: float) -> None:
        """Take in a measured time, cut to `MAX_SPIKE` times the mean."""
        self.add(min(value, MAX_SPIKE * self.mean) if self.weight else value)

    @property
    def mean(self) -> float:
        """0 before the first reading."""
        return self.total / self.weight if self.weight else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean for independent readings; infinite below two readings."""
        if self.weight <= 1:
            return float("inf")
        variance = max(0.0, self.squares / self.weight - self.mean**2)
        return float((variance / (self.weight - 1)) ** 0.5)


class StepSeconds(MovingAverage):
    """Measured times of one step. The first one, which may be of its first use, takes longer.

    A second one that is lower replaces it.
    """

    def add_seconds(self, value: float) -> None:
        if self.weight == 1 and value < self.mean:
            self.weight = self.total = self.squares = 0.0
        super().add_seconds(value)


@dataclass(slots=True)
class Throughput:
    """Tokens and seconds of recent rounds.

    Attributes:
        tokens, seconds: averages per round.
    """

    tokens: MovingAverage = field(default_factory=lambda: MovingAverage(ROUND_DECAY))
    seconds: MovingAverage = field(default_factory=lambda: MovingAverage(ROUND_DECAY))

    def add(self, tokens: int, seconds: float) -> None:
        """Take in one round."""
        self.tokens.add(tokens)
        self.seconds.add_seconds(seconds)

    @property
    def known(self) -> bool:
        """Whether there was a round."""
        return self.tokens.weight > 0

    @property
    def per_second(self) -> float:
        """Tokens per second; 0 before the first round."""
        return self.tokens.mean / self.seconds.mean if self.seconds.mean else 0.0

    def gain(self, rate: float) -> float:
        """Tokens per round beyond those that `rate` tokens per second give in its time."""
        return self.tokens.mean - rate * self.seconds.mean
