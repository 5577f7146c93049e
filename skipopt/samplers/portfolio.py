"""The default: several ways to propose, the budget going to those that have paid so far.

First come a few early exits, a fair start at next to no price. Where there is a model to look at,
a glance at few positions then ranks the sublayers, and a greedy climb begins along that ranking:
it is there before leave-one-out would have been measured. From then on the ways (arms) are told
every value and share one book of visited masks, so that nothing is asked twice and each works from
the best mask that any of them found:

- greedy: leave-one-out, growth and swaps. It has the first turns, until it stalls: of all arms
  alone, it is ahead longest. Till then it goes its own way, and no arm is told of early exits and
  of the climb before, but where it comes by such a mask: two climbs by two rankings find two
  corners, and either may be the better one; a start from an early exit has ended in worse ones;
- dp, where there is a model to look at: the frontiers of two dynamic programs;
- flip: local search at random, with kicks away from the best.

Each `ask` is one arm's. An arm's record is how much its latest trials have raised the best value.
The arm of the best record is asked, so that one that has run dry is left; where none has a record,
they take turns; and one that was passed over for long is tried again: a bandit that explores by
the calendar. Clocks have no say, so that a seed gives the same search on every machine. A Gaussian
process is not among the arms: its thinking took half of the time, and found nothing the others
did not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from random import Random
from typing import TYPE_CHECKING, Protocol

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry, take
from skipopt.samplers.greedy import GreedySampler
from skipopt.samplers.initial_masks import early_exits
from skipopt.samplers.local_search import LocalSearchSampler

if TYPE_CHECKING:
    from skipopt.samplers.context import SamplerContext

RECENT = 16  # trials of an arm that its record is made of
STALL = 3  # trials per free sublayer: so many in a row that raise nothing end the opening
CLIMB_STALL = 1  # and the climb before it
PATIENCE = 128  # trials of other arms after which an arm is tried again


class Learns(Protocol):
    """Is told what masks are worth."""

    def tell(self, mask: SkipMask, value: float) -> None: ...


@dataclass(slots=True, eq=False)
class Arm:
    """One way to propose, and its record.

    Attributes:
        opening: it has every turn until so many of its trials in a row have raised nothing, or it
            has nothing to propose; 0 from then on.
        gains: by how much its latest trials have raised the best value.
        fruitless: its latest trials in a row that have not.
        last: trials asked of all arms when it was last tried.
    """

    sampler: Learns
    proposals: Callable[[], Iterator[SkipMask]]
    opening: int = 0
    gains: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    fruitless: int = 0
    last: int = 0

    @property
    def record(self) -> float:
        return sum(self.gains) / max(1, len(self.gains))

    def take_in(self, gain: float) -> None:
        self.gains.append(gain)
        self.fruitless = 0 if gain else self.fruitless + 1
        if self.fruitless >= self.opening:
            self.opening = 0


class PortfolioSampler:
    """A bandit over the other samplers. It draws no lots; what the arms draw, the seed decides."""

    def __init__(
        self,
        space: MaskSpace,
        seed: int,
        visited: MaskRegistry | None = None,
        sampler_context: SamplerContext | None = None,
    ) -> None:
        self._visited = MaskRegistry(space, Random(seed)) if visited is None else visited
        self._exits = dict.fromkeys(early_exits(space))
        self._starts = filter(self._is_new, self._exits)
        self._book = self._visited.sibling(Random(seed))  # of the climb before greedy
        self._climb = _climb(space, seed, self._book, sampler_context)
        self._waiting: set[SkipMask] = set()  # of exits and climb: not told yet
        self._held: dict[SkipMask, float] = {}  # told when an arm comes by it, or all have turns
        self._arms = _arms(space, seed, self._visited, sampler_context)
        self._asked: dict[SkipMask, Arm] = {}  # by whom, until its value is told
        self._trials = 0

    def ask(self, count: int) -> list[SkipMask]:
        """A batch of the arm whose turn it is; what it leaves is filled by the next."""
        masks = take(self._starts, count)
        self._waiting.update(masks)
        if self._climb.opening:
            masks += self._climb_on(count - len(masks))
            self._waiting.update(masks)
        while self._held and not self._is_opening():
            self._share(*self._held.popitem())
        for arm in self._by_turn():
            if len(masks) >= count:
                break
            found = take(filter(self._is_news, arm.proposals()), count - len(masks))
            self._asked.update(dict.fromkeys(found, arm))
            masks += found
            self._trials += len(found)
            arm.opening = arm.opening if found else 0
            arm.last = self._trials
        return masks

    def tell(self, mask: SkipMask, value: float) -> None:
        apart = mask in self._waiting and self._is_opening()
        self._waiting.discard(mask)
        if mask not in self._exits and mask not in self._asked:
            # Its own, another worker's, or one of before the study was resumed.
            self._climb.take_in(_gain(self._book, value))
            self._climb.sampler.tell(mask, value)
        if apart:
            self._held[mask] = value
        else:
            self._share(mask, value)

    def _climb_on(self, count: int) -> list[SkipMask]:
        found = take(filter(self._is_new, self._climb.proposals()), count)
        if not found and count and not self._waiting:
            self._climb.opening = 0  # all around it is known
        return found

    def _share(self, mask: SkipMask, value: float) -> None:
        gain = _gain(self._visited, value)
        for arm in self._arms:
            arm.sampler.tell(mask, value)
        if (asker := self._asked.pop(mask, None)) is not None:
            asker.take_in(gain)

    def _is_new(self, mask: SkipMask) -> bool:
        if mask in self._held:
            self._climb.sampler.tell(mask, self._held[mask])  # come by, and so told
        known = mask in self._visited or mask in self._held
        return not (known or mask in self._waiting or mask in self._asked)

    def _is_news(self, mask: SkipMask) -> bool:
        """Where an arm comes by a mask that is held, it is told its value."""
        if mask in self._held:
            self._share(mask, self._held.pop(mask))
            return False
        return mask not in self._waiting

    def _is_opening(self) -> bool:
        return any(arm.opening for arm in self._arms)

    def _by_turn(self) -> list[Arm]:
        """Who opens, those passed over for long, then by record; of equals the idlest."""

        def turn(arm: Arm) -> tuple[int, float, float]:
            idle = self._trials - arm.last
            if arm.opening:
                return 0, 0.0, 0.0
            return (1, -idle, 0.0) if idle >= PATIENCE else (2, -arm.record, -idle)

        return sorted(self._arms, key=turn)


def _gain(visited: MaskRegistry, value: float) -> float:
    """By how much it is above all that is known there; 0 for the first, and for failed trials."""
    best = visited.best
    if best is None or not isfinite(value):
        return 0.0
    return max(0.0, value - visited.values[best])


def _climb(
    space: MaskSpace, seed: int, book: MaskRegistry, sampler_context: SamplerContext | None
) -> Arm:
    """Greedy along a ranking made at a glance; where that cannot be made, it is over at once."""
    if sampler_context is None or space.skip_count is not None:
        greedy = GreedySampler(space, seed, book)
        return Arm(greedy, greedy.guided)
    from skipopt.samplers.sensitivity import layer_sensitivity

    greedy = GreedySampler(
        space, seed, book, ranking=partial(layer_sensitivity, space, sampler_context)
    )
    return Arm(greedy, greedy.guided, opening=CLIMB_STALL * len(space.free))


def _arms(
    space: MaskSpace, seed: int, visited: MaskRegistry, sampler_context: SamplerContext | None
) -> list[Arm]:
    greedy = GreedySampler(space, seed, visited)
    flip = LocalSearchSampler(space, seed, visited)
    opener = Arm(greedy, greedy.guided, opening=STALL * len(space.free))
    arms = [opener, Arm(flip, flip.proposals)]
    if sampler_context is not None:
        from skipopt.samplers.dp import DpSampler

        dp = DpSampler(space, seed, sampler_context, visited)
        arms.insert(1, Arm(dp, dp.guided))
    return arms
