"""What was captured of a model's steps, kept between decodings, and why nothing is.

A step that has been captured belongs to a cache; engines borrow both and give them back. Knows
nothing of how steps are captured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class Captures:
    """One model's captured steps.

    Attributes:
        patience: times a step runs eagerly before it is captured.
        refused: why steps of this model run eagerly; None while nothing is known against them.
        idle: sets of captured steps that no engine uses at present.
    """

    patience: int = 0
    refused: str | None = None
    idle: list[Any] = field(default_factory=list)

    def borrow(self, capacity: int) -> Any | None:
        """The smallest idle set whose cache holds so many tokens; None where there is none."""
        fitting = [each for each in self.idle if each.capacity >= capacity]
        if not fitting:
            self.idle.clear()  # too small ones would only hold memory
            return None
        found = min(fitting, key=lambda each: each.capacity)
        self.idle.remove(found)
        return found

    def give_back(self, steps: Any) -> None:
        """One set is kept: two engines at once are rare, and memory is dear."""
        if not self.idle and self.refused is None:
            self.idle.append(steps)

    def refuse(self, reason: str) -> None:
        """From now on steps of this model run eagerly."""
        self.refused = reason
        self.idle.clear()
