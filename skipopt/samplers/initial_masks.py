"""Masks to start a search with: sparse ones, and early exits.

Most masks that skip half of the sublayers draft nothing that is accepted, so a model of the values
that is fitted to them sees only noise. Sparse masks keep it near those that can be faster.
"""

from __future__ import annotations

from random import Random

from skipopt.masks import MaskSpace, SkipMask

MAX_SPARSE_RATIO = 0.15


def start_mask(space: MaskSpace) -> SkipMask:
    """The empty mask; where the skip count is fixed, one that spreads it evenly."""
    count, width = space.skip_count or 0, len(space.free)
    return space.mask(space.free[(2 * i + 1) * width // (2 * count)] for i in range(count))


def early_exits(space: MaskSpace) -> list[SkipMask]:
    """Masks that keep the first eighth to four eighths of the layers, with and without the last.

    They are cheap to score, because they share their first layers and skip the others, and on most
    models one of them is a fair start. None where the number of skipped sublayers is fixed.
    """
    if space.skip_count is not None:
        return []
    kept: list[set[int]] = []
    for eighths in (1, 2, 3, 4):
        first = set(range(max(1, space.layers * eighths // 8)))
        kept += [first | {space.layers - 1}, first]
    return [space.mask(i for i in space.free if i // 2 not in layers) for layers in kept]


def initial_masks(space: MaskSpace, rng: Random, count: int) -> list[SkipMask]:
    """`start_mask` and up to `count` − 1 random masks, sparse where the skip count is free."""
    masks = [start_mask(space)] + [_sparse(space, rng) for _ in range(count - 1)]
    return list(dict.fromkeys(masks))


def _sparse(space: MaskSpace, rng: Random) -> SkipMask:
    if space.skip_count is not None:
        return space.random(rng)
    width = len(space.free)
    most = max(1, round(MAX_SPARSE_RATIO * width))
    return space.mask(rng.sample(space.free, min(width, rng.randint(1, most))))
