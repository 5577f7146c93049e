"""What was captured of a model's steps, kept between decodings, and why nothing is.

A step that has been captured belongs to a cache; engines borrow both and give them back. Knows
nothing of how steps are captured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet


@dataclass(slots=True, eq=False)
class StepCachePool:
    """One model's captured steps.

    Attributes:
        patience: times a step runs eagerly before it is captured.
        refused: why steps of this model run eagerly; None while nothing is known against them.
        wanted: was a runtime asked for that captures steps?
        compiled: are captured steps compiled by `torch.compile`?
        idle: sets of captured steps that no engine uses at present.
        sets: all that there are, those in use included.
        count, seconds: steps captured so far, and what that took.
        tell: called with the reason when the model turns out not to be capturable.
    """

    patience: int = 0
    refused: str | None = None
    wanted: bool = True
    compiled: bool = False
    idle: list[Any] = field(default_factory=list)
    sets: WeakSet[Any] = field(default_factory=WeakSet)
    count: int = 0
    seconds: float = 0.0
    tell: Callable[[str], None] | None = None

    @property
    def extra_bytes(self) -> int:
        """Memory of weights that were joined for them."""
        return sum(each.extra_bytes for each in self.sets)

    @property
    def cache_bytes(self) -> int:
        """Memory of the caches that they belong to."""
        return sum(each.cache_bytes for each in self.sets)

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

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around the capture of a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.count += 1
            self.seconds += time.perf_counter() - began

    def left_out(self, clock: Callable[[], float]) -> Callable[[], float]:
        """A clock that stands still while steps are captured."""
        return lambda: clock() - self.seconds

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Steps are captured at first use: for measurements of what lasts, not of how it began."""
        before, self.patience = self.patience, 0
        try:
            yield
        finally:
            self.patience = before

    def refuse(self, reason: str) -> None:
        """From now on steps of this model run eagerly."""
        self.refused = reason
        self.idle.clear()
        if self.tell is not None:
            self.tell(reason)
