"""Local search: which masks follow which values."""

from __future__ import annotations

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.local_search import LocalSearchSampler

LAYERS = 12
SPACE = MaskSpace(LAYERS)


def test_masks_of_one_batch_have_one_parent() -> None:
    sampler = LocalSearchSampler(SPACE, 0)
    assert sampler.ask(1) == [SkipMask.empty(LAYERS)]
    assert all(len(mask.skipped) == 1 for mask in sampler.ask(8))


def test_a_better_mask_from_another_sampler_becomes_the_parent() -> None:
    sampler = LocalSearchSampler(SPACE, 0)
    start = SkipMask.of(LAYERS, attention=[3, 5], mlp=[4])
    sampler.tell(SkipMask.empty(LAYERS), 1.0)
    sampler.tell(start, 1.5)
    assert all(len(start.skipped ^ mask.skipped) == 1 for mask in sampler.ask(8))


def test_all_improving_moves_are_tried_on_the_next_parent() -> None:
    sampler = LocalSearchSampler(SPACE, 0)
    (empty,) = sampler.ask(1)
    sampler.tell(empty, 0.0)
    children = sampler.ask(8)
    for rank, mask in enumerate(children):
        sampler.tell(mask, 5.0 - rank if rank < 3 else -1.0)
    parent = children[0]
    second, third = children[1:3]
    together = parent.flip(*second.skipped, *third.skipped)
    one_by_one = [parent.flip(*second.skipped), parent.flip(*third.skipped)]
    assert sampler.ask(3) == [together, *one_by_one]
