"""The registry of evaluated masks, through which no sampler proposes a mask twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from math import inf, isfinite
from random import Random

from skipopt.masks import MaskSpace, SkipMask

MAX_DRAWS = 64  # at random, before masks are enumerated
MAX_ENUMERATED = 1 << 16  # masks looked at by one enumeration

UpperBound = Callable[[SkipMask], float]  # a value that the mask cannot exceed


@dataclass(slots=True)
class Incumbent:
    """The best value of any registry that shares it, and the bound that is compared with it.

    As in branch and bound: a mask whose upper bound is below the incumbent cannot win.
    """

    bound: UpperBound | None = None
    value: float = -inf

    def excludes(self, mask: SkipMask) -> bool:
        return self.bound is not None and self.bound(mask) < self.value


class MaskRegistry:
    """Claimed masks of one space and the values of those that were evaluated.

    A mask is claimed when it is asked or told. Masks excluded by the incumbent count as claimed.
    As the incumbent never falls, a mask once excluded remains so.

    Args:
        rng: draws the masks of `claim_random` and `claim_neighbor`.
        bound: upper bound of each mask's value; None: no mask is excluded.
        floor: the value that a mask's bound must reach from the start.

    Attributes:
        space: the masks that may be claimed.
        values: finite values of masks in the space, in the order in which they were recorded.
    """

    def __init__(
        self,
        space: MaskSpace,
        rng: Random,
        bound: UpperBound | None = None,
        floor: float = -inf,
    ) -> None:
        self.space = space
        self.values: dict[SkipMask, float] = {}
        self._rng = rng
        self._claimed: set[SkipMask] = set()  # never iterated: its order depends on hashing
        self._unvisited = sparsest_first(space)
        self._incumbent = Incumbent(bound, floor)

    def fork(self, rng: Random) -> MaskRegistry:
        """An empty registry of the same space that shares the incumbent and its bound."""
        registry = MaskRegistry(self.space, rng)
        registry._incumbent = self._incumbent
        return registry

    @property
    def exhausted(self) -> bool:
        """Whether every mask of the space is claimed."""
        return len(self._claimed) == self.space.size()

    @property
    def best(self) -> SkipMask | None:
        """The mask of the highest value, the earliest of equals; None without values."""
        return max(self.values, key=self.values.__getitem__, default=None)

    def __contains__(self, mask: SkipMask) -> bool:
        return mask in self._claimed or self._incumbent.excludes(mask)

    def __len__(self) -> int:
        """How many masks were claimed, with the excluded ones that a claim was tried for."""
        return len(self._claimed)

    def claim(self, mask: SkipMask) -> bool:
        """Reserve a mask for evaluation; False if it is claimed, excluded or not in the space."""
        return self.claim_for_information(mask) and not self._incumbent.excludes(mask)

    def claim_for_information(self, mask: SkipMask) -> bool:
        """Claim a mask even if it is excluded, because its value tells something of others."""
        if mask in self._claimed or mask not in self.space:
            return False
        self._claimed.add(mask)
        return True

    def record(self, mask: SkipMask, value: float) -> bool:
        """Store the value of a mask and claim it; False if nothing can be learned from it.

        That is so for masks outside the space and values that are not finite.
        """
        self.claim_for_information(mask)
        if mask not in self.space or not isfinite(value):
            return False
        self.values[mask] = float(value)
        self._incumbent.value = max(self._incumbent.value, float(value))
        return True

    def claim_random(self) -> SkipMask | None:
        """Claim a random mask; None when none is left."""
        draws = (self.space.random(self._rng) for _ in range(MAX_DRAWS))
        return self._claim_first(draws) or self.claim_sparsest()

    def claim_neighbor(self, mask: SkipMask) -> SkipMask | None:
        """Claim a random neighbor of `mask`, else any other mask; None when none is left."""
        draws = (random_neighbor(self.space, mask, self._rng) for _ in range(MAX_DRAWS))
        found = self._claim_first(draws) or self._claim_first(self.space.neighbors(mask))
        return found or self.claim_random()

    def claim_sparsest(self) -> SkipMask | None:
        """Claim the unclaimed mask that skips the fewest sublayers; None when none is left.

        None also after `MAX_ENUMERATED` masks in a row that cannot be claimed: a large space
        in which hardly any mask can win is not enumerated to its end.
        """
        # Masks that were passed stay claimed, so the enumeration continues where it stopped.
        return self._claim_first(islice(self._unvisited, MAX_ENUMERATED))

    def _claim_first(self, masks: Iterable[SkipMask]) -> SkipMask | None:
        return next((mask for mask in masks if self.claim(mask)), None)


def sparsest_first(space: MaskSpace) -> Iterator[SkipMask]:
    """Every mask of the space, by ascending number of skipped sublayers."""
    fixed = space.skip_count
    counts = range(len(space.free) + 1) if fixed is None else (fixed,)
    return (space.mask(chosen) for count in counts for chosen in combinations(space.free, count))


def random_neighbor(space: MaskSpace, mask: SkipMask, rng: Random) -> SkipMask:
    """A random neighbor: one sublayer flipped, or two swapped where the skip count is fixed.

    The mask itself where it has no neighbor.
    """
    if space.skip_count is None:
        return mask.flip(*rng.sample(space.free, min(1, len(space.free))))
    inside, outside = split_free(space, mask)
    if not inside or not outside:
        return mask
    return mask.flip(rng.choice(inside), rng.choice(outside))


def split_free(space: MaskSpace, mask: SkipMask) -> tuple[list[int], list[int]]:
    """The free sublayers that the mask skips, and those that it keeps."""
    skipped = [i for i in space.free if i in mask.skipped]
    return skipped, [i for i in space.free if i not in mask.skipped]
