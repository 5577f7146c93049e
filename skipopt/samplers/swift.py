"""The proposals of SWIFT (arXiv 2410.06916, §4.2): random masks of one skip ratio.

Its start mask comes first, then random masks that skip 0.45 of the sublayers between the first and
last layer; every 25th is suggested by a Gaussian process with an upper confidence bound (κ = 2.5).
These are SWIFT's defaults. Where the space fixes a skip count or freezes sublayers, that is kept
to instead.

Differences from SWIFT's code:

- the start mask is scored like any other (there the first candidate replaces it, whatever its
  value);
- the process is fitted to the masks that were scored (there, for suggested ones, to the continuous
  vectors they were rounded from);
- no mask is scored twice;
- the study's budget decides when to stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.online.swift_search import SKIP_RATIO, SUGGEST_EVERY, alternating
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MAX_DRAWS, MaskRegistry, sparsest_first
from skipopt.samplers.initial_masks import start_mask


class SwiftSampler(BaseSampler):
    """Random masks of one skip count, every 25th suggested; the rest of the space comes last."""

    def __init__(self, space: MaskSpace, seed: int, registry: MaskRegistry | None = None) -> None:
        super().__init__(space, seed, registry)
        self._rng = Random(seed)
        self._inner = swift_space(space)
        self._unvisited = sparsest_first(self._inner)

    def proposals(self) -> Iterator[SkipMask]:
        yield from filter(self.registry.claim, [_swift_start(self.space, self._inner)])
        while (mask := self._next()) is not None:
            yield mask

    def _next(self) -> SkipMask | None:
        claim = self.registry.claim
        suggestion = self._suggestion()
        if suggestion is not None and claim(suggestion):
            return suggestion
        draws = (self._inner.random(self._rng) for _ in range(MAX_DRAWS))
        found = next(filter(claim, draws), None) or next(filter(claim, self._unvisited), None)
        return found or self.registry.claim_random()

    def _suggestion(self) -> SkipMask | None:
        """Every 25th time, the mask of highest upper confidence bound."""
        if (len(self.registry) + 1) % SUGGEST_EVERY:
            return None
        known = {m: v for m, v in self.registry.values.items() if m in self._inner}
        if len(known) < 2:
            return None
        from skipopt.gaussian_process import suggest_mask

        return suggest_mask(self._inner, known, self._rng)


def swift_space(space: MaskSpace) -> MaskSpace:
    """The masks of `space` that SWIFT would draw from; all of it where its skip count is fixed."""
    if space.skip_count is not None:
        return space
    depth = space.layers
    frozen = space.frozen | {0, 1, 2 * depth - 2, 2 * depth - 1}
    left = 2 * depth - len(frozen)
    return MaskSpace(depth, frozen, min(left, max(1, int(SKIP_RATIO * 2 * (depth - 2)))))


def _swift_start(space: MaskSpace, inner: MaskSpace) -> SkipMask:
    """Every other layer, without frozen sublayers; evenly spread where that is not in the space.

    SWIFT's own start skips more than its ratio, so it is in the space but not always in `inner`.
    """
    mask = space.mask(alternating(space.layers).skipped - space.frozen)
    return mask if mask in space else start_mask(inner)
