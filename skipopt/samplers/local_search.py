"""Iterated local search: flip one or two sublayers, keep improvements, restart near the optimum.

Starts at the empty mask. Where the skip count is fixed it starts at an evenly spread mask and
swaps sublayers instead. It fits no model of the values, so proposing costs almost nothing, and
with a few hundred trials it does well on objectives that are nearly additive over sublayers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry
from skipopt.samplers.initial_masks import start_mask

PERTURBATION = 3  # flips (or swaps) that lead away from a local optimum
FREE_ROUNDS = (1, 2)  # flips per move in each round
FIXED_ROUNDS = (1, 1, 1, 2)  # swaps; a round tries only one of each sublayer's many

Move = tuple[int, ...]  # the sublayers to flip


class LocalSearchSampler(BaseSampler):
    """Improves a parent mask by rounds of moves, one move for each sublayer.

    One batch holds children of one parent. The best child that improves on it becomes the next
    parent, and the moves of the other improving children are tried on it first, together and
    singly. Rounds of single flips without an improvement are followed by a round of pairs, and
    that by a perturbation: a parent `PERTURBATION` flips away from the best mask.
    """

    def __init__(self, space: MaskSpace, seed: int, registry: MaskRegistry | None = None) -> None:
        self._rng = Random(seed)
        super().__init__(
            space, seed, MaskRegistry(space, self._rng) if registry is None else registry
        )
        self._parent = start_mask(space)
        self._queue: deque[Move] = deque()
        self._improving: list[Move] = []  # improved on their parent since the last proposals
        self._origin: dict[SkipMask, tuple[SkipMask, Move]] = {}  # child: its parent and move
        self._round = 0

    def tell(self, mask: SkipMask, value: float) -> None:
        if not self.registry.record(mask, value):
            return
        values = self.registry.values
        source, move = self._origin.pop(mask, (None, ()))
        if source is not None and value > values.get(source, inf):
            self._improving.append(move)
        beats_parent = source == self._parent and value > values.get(self._parent, inf)
        if beats_parent or self.registry.best == mask:
            self._parent, self._round = mask, 0

    def proposals(self) -> Iterator[SkipMask]:
        """Ends when the space is exhausted."""
        self._queue_improving()
        while (mask := self._next()) is not None:
            yield mask

    def _next(self) -> SkipMask | None:
        if self.registry.exhausted:
            return None
        # Bounded: near the end of a small space every move may lead to a claimed mask.
        for _ in range(4 * len(self.space.free) + 1):
            if self.registry.claim(self._parent):
                return self._parent
            move = self._next_move()
            child = self._parent.flip(*move)
            if self.registry.claim(child):
                self._origin[child] = (self._parent, move)
                return child
        return self.registry.claim_neighbor(self._parent)

    def _queue_improving(self) -> None:
        """Queue the moves that improved on the last parent: all together, then one by one."""
        # The move that led to the new parent would lead back, to a claimed mask.
        moves = [m for m in self._improving if self._parent.flip(*m) not in self.registry]
        together = [tuple(i for move in moves for i in move)] if len(moves) > 1 else []
        self._queue.extendleft(reversed(together + moves))
        self._improving.clear()

    def _next_move(self) -> Move:
        if not self._queue:
            self._refill()
        return self._queue.popleft() if self._queue else ()

    def _refill(self) -> None:
        """Queue the next round of moves; perturb the parent first when all rounds are done."""
        widths = FREE_ROUNDS if self.space.skip_count is None else FIXED_ROUNDS
        turn = self._round % len(widths)
        if self._round and turn == 0:
            self._perturb()
        self._round += 1
        order = self._rng.sample(self.space.free, len(self.space.free))
        self._queue.extend(self._move(position, widths[turn]) for position in order)

    def _perturb(self) -> None:
        if self.space.free:
            self._parent = self.registry.best or self._parent
            position = self._rng.choice(self.space.free)
            self._parent = self._parent.flip(*self._move(position, PERTURBATION))

    def _move(self, position: int, width: int) -> Move:
        """Flips of `position` and of width − 1 others, or swaps where the skip count is fixed.

        Empty where no swap is possible.
        """
        others = [i for i in self.space.free if i != position]
        if self.space.skip_count is None:
            return (position, *self._rng.sample(others, min(width - 1, len(others))))
        is_skipped = position in self._parent.skipped
        same = [i for i in others if (i in self._parent.skipped) == is_skipped]
        opposite = [i for i in others if (i in self._parent.skipped) != is_skipped]
        width = min(width, 1 + len(same), len(opposite))
        if not width:
            return ()
        return position, *self._rng.sample(same, width - 1), *self._rng.sample(opposite, width)
