"""The registry of masks: claims, exclusion by the incumbent, forks."""

from __future__ import annotations

from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry


def test_excluded_masks_count_as_claimed_and_the_space_is_exhausted() -> None:
    space = MaskSpace(2)
    registry = MaskRegistry(space, Random(0), lambda mask: float(len(mask.skipped)))
    registry.record(space.mask([0, 1, 2]), 2.5)
    assert space.mask([3]) in registry
    assert not registry.claim(space.mask([0, 3]))
    left = []
    while (mask := registry.claim_random()) is not None:
        left.append(mask)
    assert all(len(mask.skipped) >= 3 for mask in left)
    assert len(left) == 4  # three of three, and all
    assert registry.exhausted


def test_an_excluded_mask_can_be_claimed_for_information() -> None:
    space = MaskSpace(2)
    registry = MaskRegistry(space, Random(0), lambda mask: 0.0)
    registry.record(SkipMask.empty(2), 1.0)
    assert registry.claim_for_information(space.mask([1]))
    assert not registry.claim_for_information(space.mask([1]))


def test_forks_share_the_incumbent_and_nothing_else() -> None:
    space = MaskSpace(2)
    first = MaskRegistry(space, Random(0), lambda mask: float(len(mask.skipped)))
    second = first.fork(Random(1))
    first.record(space.mask([0, 1]), 1.5)
    assert second.values == {}
    assert second.best is None
    assert not second.claim(space.mask([2]))
    assert second.claim(space.mask([0, 1]))
    second.record(space.mask([0, 1, 2]), 2.5)
    assert not first.claim(space.mask([2, 3]))


def test_a_large_space_without_possible_improvement_ends_the_search() -> None:
    space = MaskSpace(24)
    registry = MaskRegistry(space, Random(0), lambda mask: 0.0)
    registry.record(space.mask(range(48)), 1.0)
    assert registry.claim_random() is None
