"""How many attention and MLP sublayers to skip, along a ranking: a search over two numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry

DIRECTIONS = ((1, 1), (1, 0), (0, 1), (1, -1), (-1, 1), (-1, 0), (0, -1), (-1, -1))


class SkipCounts(NamedTuple):
    """How many attention and how many MLP sublayers a mask skips."""

    attention: int
    mlp: int


@dataclass(frozen=True, slots=True)
class SensitivityRanking:
    """Free sublayers of each kind, the one that gains most by being skipped first.

    Attributes:
        attention: positions in the mask, as are those of `mlp`.
        expected: the counts of the best mask if gains added up. (0, 0) where any number may be
            skipped: gains never quite add up, so the search starts with few.
    """

    space: MaskSpace
    attention: tuple[int, ...]
    mlp: tuple[int, ...]
    expected: SkipCounts

    @classmethod
    def from_gains(cls, space: MaskSpace, gains: Mapping[int, float]) -> SensitivityRanking:
        """The ranking by the gain of skipping each free sublayer."""
        order = sorted(space.free, key=lambda i: -gains[i])
        attention = tuple(i for i in order if i % 2 == 0)
        mlp = tuple(i for i in order if i % 2)
        return cls(space, attention, mlp, _count(order[: space.skip_count or 0]))

    def mask(self, counts: SkipCounts) -> SkipMask | None:
        """The mask that skips the first ones of each kind; None where there are not so many."""
        a, m = counts
        if not (0 <= a <= len(self.attention) and 0 <= m <= len(self.mlp)):
            return None
        return self.space.mask(self.attention[:a] + self.mlp[:m])

    def counts(self, mask: SkipMask) -> SkipCounts | None:
        """The counts whose mask this is; None when it does not follow the ranking."""
        counts = _count(mask.skipped)
        return counts if self.mask(counts) == mask else None


def _count(positions: Iterable[int]) -> SkipCounts:
    kinds = [position % 2 for position in positions]
    return SkipCounts(kinds.count(0), kinds.count(1))


class CompassSearch:
    """Compass (pattern) search over skip counts.

    Tries the eight counts one stride away from the best known, then halves the stride. The stride
    doubles again when the best counts have changed.
    """

    def __init__(self, registry: MaskRegistry) -> None:
        self._registry = registry
        self._max_stride = max(1, len(registry.space.free) // 8)
        self._stride = self._max_stride
        self._center: SkipCounts | None = None

    def proposals(self, ranking: SensitivityRanking) -> Iterator[SkipMask]:
        """Claimed masks around the best counts; ends when all within the stride are known."""
        center = self._best(ranking)
        self._move_to(center)
        stride = self._stride
        while stride:
            for mask in _around(ranking, center, stride):
                if self._registry.claim(mask):
                    self._stride = stride
                    yield mask
            stride //= 2

    def _best(self, ranking: SensitivityRanking) -> SkipCounts:
        values = self._registry.values
        known = {mask: counts for mask in values if (counts := ranking.counts(mask))}
        best = max(known, key=values.__getitem__, default=None)
        return ranking.expected if best is None else known[best]

    def _move_to(self, center: SkipCounts) -> None:
        if self._center not in (None, center):
            self._stride = min(2 * self._stride, self._max_stride)
        self._center = center


def _around(ranking: SensitivityRanking, center: SkipCounts, stride: int) -> Iterator[SkipMask]:
    """The masks of `center` and of the counts one stride away in each direction."""
    a, m = center
    counts = [center, *(SkipCounts(a + i * stride, m + j * stride) for i, j in DIRECTIONS)]
    return (mask for each in counts if (mask := ranking.mask(each)) is not None)
