"""Where a search begins: at masks that skip little. Knows nothing of samplers.

Most masks with half of the sublayers skipped draft nothing of use, so a model of the values that
starts from them has only noise to learn from; sparse masks keep it near those that can pay.
"""

from __future__ import annotations

from random import Random

from skipopt.masks import MaskSpace, SkipMask

SPARSE = 0.15


def first_mask(space: MaskSpace) -> SkipMask:
    """The empty mask; where the skip count is fixed, one that spreads it evenly."""
    count, width = space.skip_count or 0, len(space.free)
    return space.mask(space.free[(2 * i + 1) * width // (2 * count)] for i in range(count))


def early_exits(space: MaskSpace) -> list[SkipMask]:
    """The first one, two, three and four eighths of the layers, with the last one and without.

    Thin masks that begin alike are scored in no time, and on most models one of them is a fair
    start. None where the number of skipped sublayers is fixed.
    """
    if space.skip_count is not None:
        return []
    depth = space.layers
    kept: list[set[int]] = []
    for eighths in (1, 2, 3, 4):
        first = set(range(max(1, depth * eighths // 8)))
        kept += [first | {depth - 1}, first]
    return [space.mask(i for i in space.free if i // 2 not in layers) for layers in kept]


def initial_masks(space: MaskSpace, rng: Random, count: int) -> list[SkipMask]:
    """`first_mask` and up to count − 1 more: sparse ones, or any where the count is fixed."""
    masks = [first_mask(space)] + [_sparse(space, rng) for _ in range(count - 1)]
    return list(dict.fromkeys(masks))


def _sparse(space: MaskSpace, rng: Random) -> SkipMask:
    if space.skip_count is not None:
        return space.random(rng)
    width = len(space.free)
    most = max(1, round(SPARSE * width))
    return space.mask(rng.sample(space.free, min(width, rng.randint(1, most))))
