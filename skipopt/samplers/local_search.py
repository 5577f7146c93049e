"""Local search: flip one or two sublayers, keep what improves, kick when nothing does.

Starts at the empty mask; where the skip count is fixed, at an evenly spread one, and swaps instead
of flipping. Holds no model of the values and costs nothing, yet with some hundred trials it is
hard to beat on objectives that are nearly additive over sublayers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry, take
from skipopt.samplers.initial_masks import first_mask

KICK = 3
FREE_ROUNDS = (1, 2)  # moves in each child
FIXED_ROUNDS = (1, 1, 1, 2)  # a round sees one of each sublayer's many swaps

Move = tuple[int, ...]  # the positions to flip


class LocalSearchSampler:
    """Climbs from a parent mask by rounds of moves, one for each sublayer.

    One batch holds children of one parent. Of several that improve on it the best becomes the
    next parent, and the moves of the others are tried on it first, together and singly. Rounds of
    single moves without a better mask are followed by pairs, and pairs by a kick: a parent `KICK`
    moves away from the best mask.
    """

    def __init__(self, space: MaskSpace, seed: int, visited: MaskRegistry | None = None) -> None:
        """`visited` may be shared with another sampler that is told the same values."""
        self._space = space
        self._rng = Random(seed)
        self._visited = MaskRegistry(space, self._rng) if visited is None else visited
        self._parent = first_mask(space)
        self._queue: deque[Move] = deque()
        self._promising: list[Move] = []  # improved on their parent since the last proposals
        self._born: dict[SkipMask, tuple[SkipMask, Move]] = {}  # child: its parent, its move
        self._rounds = 0

    def ask(self, count: int) -> list[SkipMask]:
        return take(self.proposals(), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        if not self._visited.record(mask, value):
            return
        values = self._visited.values
        source, move = self._born.pop(mask, (None, ()))
        if source is not None and value > values.get(source, inf):
            self._promising.append(move)
        beats_parent = source == self._parent and value > values.get(self._parent, inf)
        if beats_parent or self._visited.best == mask:
            self._parent, self._rounds = mask, 0

    def proposals(self) -> Iterator[SkipMask]:
        """Claimed masks, while there are any."""
        self._repeat_promising()
        while (mask := self._next()) is not None:
            yield mask

    def _next(self) -> SkipMask | None:
        if self._visited.exhausted:
            return None
        # Bounded: near the end of a small space every move may lead to a visited mask.
        for _ in range(4 * len(self._space.free) + 1):
            if self._visited.claim(self._parent):
                return self._parent
            move = self._take_move()
            child = self._parent.flip(*move)
            if self._visited.claim(child):
                self._born[child] = (self._parent, move)
                return child
        return self._visited.near(self._parent)

    def _repeat_promising(self) -> None:
        """Queue what improved on the last parent: all at once, then one by one."""
        flip, visited = self._parent.flip, self._visited
        # The move that led to the parent would lead back, to a visited mask.
        moves = [move for move in self._promising if flip(*move) not in visited]
        together = [tuple(i for move in moves for i in move)] if len(moves) > 1 else []
        self._queue.extendleft(reversed(together + moves))
        self._promising.clear()

    def _take_move(self) -> Move:
        if not self._queue:
            self._refill()
        return self._queue.popleft() if self._queue else ()

    def _refill(self) -> None:
        """The next round of moves, after a kick when the rounds are through."""
        widths = FREE_ROUNDS if self._space.skip_count is None else FIXED_ROUNDS
        turn = self._rounds % len(widths)
        if self._rounds and turn == 0:
            self._kick()
        self._rounds += 1
        width = widths[turn]
        order = self._rng.sample(self._space.free, len(self._space.free))
        self._queue.extend(self._move(position, width) for position in order)

    def _kick(self) -> None:
        if self._space.free:
            self._parent = self._visited.best or self._parent
            self._parent = self._parent.flip(*self._move(self._rng.choice(self._space.free), KICK))

    def _move(self, position: int, width: int) -> Move:
        """`position` and width − 1 others; a fixed count is kept by as many from the other side.

        Empty where the count is fixed and the other side is.
        """
        others = [i for i in self._space.free if i != position]
        if self._space.skip_count is None:
            return (position, *self._rng.sample(others, min(width - 1, len(others))))
        skipped = self._parent.skipped
        same = [i for i in others if (i in skipped) == (position in skipped)]
        opposite = [i for i in others if (i in skipped) != (position in skipped)]
        width = min(width, 1 + len(same), len(opposite))
        if not width:
            return ()
        return (
            position,
            *self._rng.sample(same, width - 1),
            *self._rng.sample(opposite, width),
        )
