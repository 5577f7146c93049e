"""The default: several ways to propose, the budget going to those that have paid so far.

The ways (arms) are told every value and share one book of visited masks, so that nothing is asked
twice and each works from the best mask that any of them found:

- greedy: leave-one-out, growth and swaps; it opens, for it has never been far behind;
- dp, where there is a model to look at: the frontiers of two dynamic programs;
- flip: local search at random around the best;
- bayes: a Gaussian process over what is known.

Each `ask` is one arm's. An arm's record is how much its latest trials have raised the best value,
each at a declared price for the thinking behind it (clocks would make a search depend on the
machine). The arm of the best record is asked, so that one that has run dry is left; where none has
a record, they take turns, dear ones less often; and one that was passed over for long is tried
again. A bandit that explores by the calendar.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from random import Random
from typing import TYPE_CHECKING

from skipopt.masks import MaskSpace, SkipMask
from skipopt.searching.bayes import BayesSampler
from skipopt.searching.flip import FlipSampler
from skipopt.searching.greedy import GreedySampler
from skipopt.searching.protocol import Sampler
from skipopt.searching.visited import Visited, take

if TYPE_CHECKING:
    from skipopt.searching.scene import Scene

RECENT = 16  # trials of an arm that its record is made of
PATIENCE = 128  # trials of other arms after which an arm is tried again
GROWTH = 16  # trials that greedy has after its single skips before other arms get a turn
BAYES_PRICE = 4.0  # of a trial whose mask a Gaussian process proposed; of others 1


@dataclass(slots=True, eq=False)
class Arm:
    """One way to propose, and its record.

    Attributes:
        opening: trials that it still has before any record counts.
        price: what one of its trials costs, proposing included.
        gains: by how much its latest trials have raised the best value.
        last: trials asked of all arms when it was last tried.
    """

    sampler: Sampler
    proposals: Callable[[], Iterator[SkipMask]]
    opening: int = 0
    price: float = 1.0
    gains: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    last: int = 0

    @property
    def record(self) -> float:
        return sum(self.gains) / (self.price * max(1, len(self.gains)))


class AutoSampler:
    """A bandit over the other samplers. It draws no lots; what the arms draw, the seed decides."""

    def __init__(
        self,
        space: MaskSpace,
        seed: int,
        visited: Visited | None = None,
        scene: Scene | None = None,
    ) -> None:
        self._visited = Visited(space, Random(seed)) if visited is None else visited
        self._arms = _arms(space, seed, self._visited, scene)
        self._asked: dict[SkipMask, Arm] = {}  # by whom, until its value is told
        self._trials = 0

    def ask(self, count: int) -> list[SkipMask]:
        """A batch of the arm whose turn it is; what it leaves is filled by the next."""
        masks: list[SkipMask] = []
        for arm in self._by_turn():
            if len(masks) >= count:
                break
            found = take(arm.proposals(), count - len(masks))
            self._asked.update(dict.fromkeys(found, arm))
            masks += found
            self._trials += len(found)
            arm.opening -= len(found) or arm.opening  # an arm that has nothing has had its turn
            arm.last = self._trials
        return masks

    def tell(self, mask: SkipMask, value: float) -> None:
        best = self._visited.best
        before = value if best is None else self._visited.values[best]
        for arm in self._arms:
            arm.sampler.tell(mask, value)
        if (asker := self._asked.pop(mask, None)) is not None:
            asker.gains.append(max(0.0, value - before) if isfinite(value) else 0.0)

    def _by_turn(self) -> list[Arm]:
        """Who opens, those passed over for long, then by record; of equals the idlest."""

        def turn(arm: Arm) -> tuple[int, float, float]:
            idle = (self._trials - arm.last) / arm.price  # dear arms have rarer turns
            if arm.opening > 0:
                return 0, 0.0, 0.0
            return (1, -idle, 0.0) if idle >= PATIENCE else (2, -arm.record, -idle)

        return sorted(self._arms, key=turn)


def _arms(space: MaskSpace, seed: int, visited: Visited, scene: Scene | None) -> list[Arm]:
    greedy = GreedySampler(space, seed, visited)
    flip = FlipSampler(space, seed, visited)
    bayes = BayesSampler(space, seed, visited)
    arms = [
        Arm(greedy, greedy.guided, opening=len(space.free) + 1 + GROWTH),
        Arm(flip, flip.proposals),
        Arm(bayes, bayes.proposals, price=BAYES_PRICE),
    ]
    if scene is not None:
        from skipopt.searching.dp import DpSampler

        dp = DpSampler(space, seed, scene, visited)
        arms.insert(1, Arm(dp, dp.guided))
    return arms
