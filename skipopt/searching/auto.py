"""temp"""

from __future__ import annotations

from itertools import chain
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.searching.flip import FlipSampler
from skipopt.searching.probe import ProbeSampler
from skipopt.searching.visited import Visited, take


class AutoSampler:
    """`probe` until its budgets settle, then `flip`; both know of every mask."""

    def __init__(self, space: MaskSpace, seed: int, visited=None, scene=None) -> None:
        visited = visited or Visited(space, Random(seed))
        self._probe = ProbeSampler(space, seed, visited)
        self._flip = FlipSampler(space, seed, visited)

    def ask(self, count: int) -> list[SkipMask]:
        return take(chain(self._probe.guided(), self._flip.proposals()), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        self._probe.tell(mask, value)
        self._flip.tell(mask, value)
