"""How many of each kind to skip, along a ranking: a search over two numbers.

A budget (a, m) stands for the mask that skips the a best attention sublayers and the m best MLPs.
Knows nothing of where the ranking comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry

SkipCounts = tuple[int, int]

DIRECTIONS = ((1, 1), (1, 0), (0, 1), (1, -1), (-1, 1), (-1, 0), (0, -1), (-1, -1))


@dataclass(frozen=True, slots=True)
class SensitivityRanking:
    """Free positions of each kind, the one that gains most by being skipped first.

    Attributes:
        guess: the budget of the mask that would be best if gains added up, or (0, 0) where any
            number may be skipped: gains never quite add up, and the search grows from little.
    """

    space: MaskSpace
    attention: tuple[int, ...]
    mlp: tuple[int, ...]
    guess: SkipCounts

    @classmethod
    def by(cls, space: MaskSpace, gains: Mapping[int, float]) -> SensitivityRanking:
        order = sorted(space.free, key=lambda i: -gains[i])
        chosen = order[: space.skip_count or 0]
        attention = tuple(i for i in order if i % 2 == 0)
        guess = sum(i % 2 == 0 for i in chosen), sum(i % 2 for i in chosen)
        return cls(space, attention, tuple(i for i in order if i % 2), guess)

    def mask(self, budget: SkipCounts) -> SkipMask | None:
        """The mask of a budget; None where there are not so many sublayers."""
        a, m = budget
        if not (0 <= a <= len(self.attention) and 0 <= m <= len(self.mlp)):
            return None
        return self.space.mask(self.attention[:a] + self.mlp[:m])

    def budget(self, mask: SkipMask) -> SkipCounts | None:
        """The budget that a mask stands for; None when it does not follow the ranking."""
        m = sum(i % 2 for i in mask.skipped)
        budget = len(mask.skipped) - m, m
        return budget if self.mask(budget) == mask else None


class CompassSearch:
    """Compass search: the eight budgets a stride away from the best known, then half the stride.

    The stride doubles again when the best budget has moved.
    """

    def __init__(self, visited: MaskRegistry) -> None:
        self._visited = visited
        self._widest = max(1, len(visited.space.free) // 8)
        self._stride = self._widest
        self._centre: SkipCounts | None = None

    def proposals(self, ranking: SensitivityRanking) -> Iterator[SkipMask]:
        """Claimed masks around the best budget so far; ends when all near it are known."""
        self._move_to(self._best(ranking))
        stride = self._stride
        while stride:
            for mask in self._around(ranking, stride):
                if self._visited.claim(mask):
                    self._stride = stride
                    yield mask
            stride //= 2

    def _best(self, ranking: SensitivityRanking) -> SkipCounts:
        values = self._visited.values
        known = {mask: budget for mask in values if (budget := ranking.budget(mask))}
        best = max(known, key=values.__getitem__, default=None)
        return ranking.guess if best is None else known[best]

    def _move_to(self, centre: SkipCounts) -> None:
        if self._centre not in (None, centre):
            self._stride = min(2 * self._stride, self._widest)
        self._centre = centre

    def _around(self, ranking: SensitivityRanking, stride: int) -> Iterator[SkipMask]:
        a, m = self._centre or ranking.guess
        budgets = [(a, m)] + [(a + i * stride, m + j * stride) for i, j in DIRECTIONS]
        return (mask for budget in budgets if (mask := ranking.mask(budget)) is not None)
