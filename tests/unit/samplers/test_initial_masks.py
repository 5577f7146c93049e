"""The masks that searches start with."""

from __future__ import annotations

from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.initial_masks import early_exits, initial_masks, start_mask


def test_a_fixed_count_starts_evenly_spread() -> None:
    space = MaskSpace(6, frozenset({0, 1, 10, 11}), skip_count=4)
    assert sorted(start_mask(space).skipped) == [3, 5, 7, 9]


def test_initial_masks_are_sparse_and_begin_with_the_empty_one() -> None:
    first, *others = initial_masks(MaskSpace(12), Random(0), 10)
    assert first == SkipMask.empty(12)
    assert others
    assert all(1 <= len(mask.skipped) <= 4 for mask in others)  # 15 % of 24


def test_early_exits_keep_what_is_frozen() -> None:
    space = MaskSpace(8, frozenset({10, 11}))
    assert all(mask in space for mask in early_exits(space))
    assert early_exits(MaskSpace(8, skip_count=4)) == []
