"""SWIFT's proposals (arXiv 2410.06916, §4.2) as a sampler: a fixed ratio, mostly at random.

Its start mask first, then masks at random with 0.45 of the sublayers between first and last layer
skipped, every 25th by a Gaussian process and an upper confidence bound (κ = 2.5); its defaults.
Where the space fixes a count or freezes sublayers, that holds instead.

Not reproduced, because its code loses by it: the start mask is scored like any other (there the
first candidate replaces it, however bad), the process sees the masks that were scored (there, for
its own suggestions, the real vectors behind them), and no mask is scored twice. That its sampled
text is not the target's, and its output not what plain decoding gives, are matters of decoding
and have no place here. Its stopping rules are left to the study's budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.online.swift_search import EVERY, RATIO, alternating
from skipopt.samplers.dedup import TRIES, MaskRegistry, sparse_first, take
from skipopt.samplers.initial_masks import first_mask


class SwiftSampler:
    """Random masks of one skip count, every 25th suggested; the rest of the space last of all."""

    def __init__(self, space: MaskSpace, seed: int, visited: MaskRegistry | None = None) -> None:
        self._seed = seed
        self._rng = Random(seed)
        self._visited = MaskRegistry(space, Random(seed)) if visited is None else visited
        self._inner = fixed_ratio(space)
        self._rest = sparse_first(self._inner)

    def ask(self, count: int) -> list[SkipMask]:
        return take(self._proposals(), count)

    def tell(self, mask: SkipMask, value: float) -> None:
        self._visited.record(mask, value)

    def _proposals(self) -> Iterator[SkipMask]:
        yield from filter(self._visited.claim, [_start(self._visited.space, self._inner)])
        while (mask := self._next()) is not None:
            yield mask

    def _next(self) -> SkipMask | None:
        claim = self._visited.claim
        known = {m: v for m, v in self._visited.values.items() if m in self._inner}
        if (len(self._visited) + 1) % EVERY == 0 and len(known) > 1:
            from skipopt.online.gp import suggest

            mask = suggest(self._inner, known, self._rng, self._seed)
            if claim(mask):
                return mask
        draws = (self._inner.random(self._rng) for _ in range(TRIES))
        found = next(filter(claim, draws), None) or next(filter(claim, self._rest), None)
        return found or self._visited.random()


def fixed_ratio(space: MaskSpace) -> MaskSpace:
    """The masks of `space` that SWIFT would draw from; all of it where its count is fixed."""
    if space.skip_count is not None:
        return space
    depth = space.layers
    frozen = space.frozen | {0, 1, 2 * depth - 2, 2 * depth - 1}
    left = 2 * depth - len(frozen)
    return MaskSpace(depth, frozen, min(left, max(1, int(RATIO * 2 * (depth - 2)))))


def _start(space: MaskSpace, inner: MaskSpace) -> SkipMask:
    """Every other layer, without what is frozen; evenly spread where that is not in the space.

    SWIFT's own start skips more than its ratio, so it is in the space, not always in `inner`.
    """
    every_other = alternating(space.layers)
    mask = space.mask(every_other.skipped - space.frozen)
    return mask if mask in space else first_mask(inner)
