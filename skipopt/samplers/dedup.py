"""The masks a search has been through, and the way to those it has not.

Every sampler keeps one, so that no mask is asked twice, a small space is covered to its last
mask, and a mask that cannot win is not asked at all. Knows nothing of how a sampler chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from math import inf, isfinite
from random import Random

from skipopt.masks import MaskSpace, SkipMask

TRIES = 64
SWEPT = 1 << 16  # masks that one sweep looks at

Bound = Callable[[SkipMask], float]  # a value that the mask cannot exceed


@dataclass(slots=True)
class BestValue:
    """The best value that was told of any mask."""

    best: float = -inf


class MaskRegistry:
    """Asked and told masks of one space.

    Args:
        bound: masks whose bound is below the best known value count as visited: they are not
            asked, unless for what they teach of others. None: every mask may win.
        known: the best value, where others know of it too.

    Attributes:
        space: the masks a search may visit.
        values: what was told of masks inside the space, in the order of telling; finite.
    """

    def __init__(
        self,
        space: MaskSpace,
        rng: Random,
        bound: Bound | None = None,
        known: BestValue | None = None,
    ) -> None:
        self.space = space
        self.values: dict[SkipMask, float] = {}
        self._rng = rng
        self._claimed: set[SkipMask] = set()  # membership only: its order depends on hashing
        self._rest = sparse_first(space)
        self._bound = bound
        self._known = known or BestValue()

    def sibling(self, rng: Random) -> MaskRegistry:
        """An empty one of the same space, in which the same masks cannot win."""
        return MaskRegistry(self.space, rng, self._bound, self._known)

    @property
    def exhausted(self) -> bool:
        return len(self._claimed) == self.space.size()

    @property
    def best(self) -> SkipMask | None:
        """The mask of the highest value, the earliest of equals; None before the first."""
        return max(self.values, key=self.values.__getitem__, default=None)

    def __contains__(self, mask: SkipMask) -> bool:
        return mask in self._claimed or self._loses(mask)

    def __len__(self) -> int:
        """How many masks were asked, told or found to lose."""
        return len(self._claimed)

    def claim(self, mask: SkipMask) -> bool:
        """Reserve a mask for asking.

        False when it was visited before, is not in the space, or cannot win.
        """
        return self.claim_to_learn(mask) and not self._loses(mask)

    def claim_to_learn(self, mask: SkipMask) -> bool:
        """Reserve a mask for what its value says of others, be it able to win or not."""
        if mask in self._claimed or mask not in self.space:
            return False
        self._claimed.add(mask)
        return True

    def _loses(self, mask: SkipMask) -> bool:
        # Once and for all: the best known value never falls.
        return self._bound is not None and self._bound(mask) < self._known.best

    def record(self, mask: SkipMask, value: float) -> bool:
        """Note a told value; False when there is nothing to learn from it."""
        self.claim_to_learn(mask)
        if mask not in self.space or not isfinite(value):
            return False
        self.values[mask] = float(value)
        self._known.best = max(self._known.best, float(value))
        return True

    def random(self) -> SkipMask | None:
        """Claim a mask at random; None when none is left."""
        draws = (self.space.random(self._rng) for _ in range(TRIES))
        return self._first(draws) or self.sweep()

    def near(self, mask: SkipMask) -> SkipMask | None:
        """Claim a neighbour of `mask`, else any other mask; None when none is left."""
        steps = (step(self.space, mask, self._rng) for _ in range(TRIES))
        return self._first(steps) or self._first(self.space.neighbours(mask)) or self.random()

    def sweep(self) -> SkipMask | None:
        """Claim the sparsest mask that is left; None when none is.

        In a space too large to be looked through, None also where many in a row cannot win.
        """
        # What the sweep has passed stays visited: it goes on where it stopped.
        return self._first(islice(self._rest, SWEPT))

    def _first(self, masks: Iterable[SkipMask]) -> SkipMask | None:
        return next((mask for mask in masks if self.claim(mask)), None)


def take(masks: Iterator[SkipMask], count: int) -> list[SkipMask]:
    """The first `count` proposals; the rest are never made, so that none is claimed in vain."""
    return list(islice(masks, max(count, 0)))


def sparse_first(space: MaskSpace) -> Iterator[SkipMask]:
    """Every mask of the space, those that skip the least first."""
    fixed = space.skip_count
    counts = range(len(space.free) + 1) if fixed is None else (fixed,)
    return (space.mask(chosen) for count in counts for chosen in combinations(space.free, count))


def step(space: MaskSpace, mask: SkipMask, rng: Random) -> SkipMask:
    """A neighbour at random: one flip, or one swap where the count is fixed.

    The mask itself where it has no neighbour.
    """
    if space.skip_count is None:
        return mask.flip(*rng.sample(space.free, min(1, len(space.free))))
    inside = [i for i in space.free if i in mask.skipped]
    outside = [i for i in space.free if i not in mask.skipped]
    if not inside or not outside:
        return mask
    return mask.flip(rng.choice(inside), rng.choice(outside))
