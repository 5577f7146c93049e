"""Speedups with their intervals in words."""

from __future__ import annotations

from typing import Protocol

# A speedup this near to 1 is neither faster nor slower; timings are no more exact than that.
NEAR_ONE = 0.02
UNDECIDED = "undecided"


class AnyInterval(Protocol):
    """A median and its 95 % interval."""

    @property
    def median(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def whole_interval(median: float, low: float, high: float) -> str:
    """`1.39× (1.35–1.43)`."""
    return f"{median:.2f}× ({low:.2f}–{high:.2f})"


def interval(found: AnyInterval) -> str:
    """`1.39× (1.35–1.43)`; `1.06× (0.48–7.69), undecided` where faster and slower are possible."""
    words = whole_interval(found.median, found.low, found.high)
    return f"{words}, {UNDECIDED}" if called_undecided(found.low, found.high) else words


def called_undecided(low: float, high: float) -> bool:
    """Whether a speedup may be below 1 as well as above, by more than timings are exact."""
    return low < 1 - NEAR_ONE and high > 1 + NEAR_ONE
