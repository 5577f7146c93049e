"""Climb from the thinnest masks that pay: flips around the best early exit, then greedily on.

A mask that keeps few sublayers is scored in a fraction of the time of one that keeps most, so
where a model can be thinned that far, this end of the space is climbed while leave-one-out is
still being measured at the other. Each step tries changes in the order of what they gained when
last measured, some of those that lead together, and then swaps, like `greedy`. Where no early
exit beats plain decoding there is nothing to climb from, and nothing is proposed. Knows nothing of
how values come about, but that 1 is plain decoding's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from skipopt.masks import MaskSpace, SkipMask
from skipopt.searching.greedy import LEADING, changes, gains_at, swaps
from skipopt.searching.starts import early_exits
from skipopt.searching.visited import Visited

PLAIN = 1.0
TOGETHER = (2, 4, 8)  # changes


class ThinSampler:
    """Early exits are told to it; from the best of them it climbs. It draws no lots."""

    def __init__(self, space: MaskSpace, visited: Visited) -> None:
        self._space = space
        self._visited = visited
        self._start: SkipMask | None = None
        self._latest = dict.fromkeys(space.free, 0.0)  # what skipping it gained, last measured

    def tell(self, mask: SkipMask, value: float) -> None:
        if self._visited.record(mask, value):
            self._latest.update(gains_at(mask, self._visited.values, self._space))

    def guided(self) -> Iterator[SkipMask]:
        """Flips, changes and swaps, claimed; ends when all around the best mask are known."""
        self._start = self._start or self._best_exit()
        if self._start is None:
            return
        flips = (self._start.flip(i) for i in self._space.free)
        yield from filter(self._visited.claim, flips)
        yield from filter(self._visited.claim, self._around(self._visited.best or self._start))

    def _best_exit(self) -> SkipMask | None:
        values = self._visited.values
        known = [mask for mask in early_exits(self._space) if values.get(mask, PLAIN) > PLAIN]
        return max(known, key=values.__getitem__, default=None)

    def _around(self, centre: SkipMask) -> Iterator[SkipMask]:
        order = list(changes(self._space, centre, self._latest))
        singles = (mask for mask in order if mask not in self._visited)
        yield from islice(singles, LEADING)
        yield from together(self._space, centre, self._latest)
        yield from singles
        yield from swaps(self._space, centre, self._latest)


def together(space: MaskSpace, centre: SkipMask, gains: Mapping[int, float]) -> Iterator[SkipMask]:
    """The 2, 4 and 8 changes that lead."""
    worth = {i: -gains[i] if i in centre.skipped else gains[i] for i in space.free}
    order = sorted(space.free, key=lambda i: -worth[i])
    return (centre.flip(*order[:width]) for width in TOGETHER if width <= len(order))
