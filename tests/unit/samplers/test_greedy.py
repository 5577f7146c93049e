"""Greedy: leave-one-out masks, then the changes of the best mask that gain most."""

from __future__ import annotations

from math import inf, nan

import pytest

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.greedy import (
    GreedySampler,
    joint_additions,
    measured_gains,
    ranking_prefixes,
    single_flips,
    swaps,
)

SPACE = MaskSpace(4)
WORTH = (0.4, -0.3, 0.1, 0.2, -0.1, 0.3, -0.2, 0.05)


def additive(mask: SkipMask) -> float:
    return sum(WORTH[i] for i in mask.skipped)


def run(sampler: BaseSampler, trials: int, batch: int = 1) -> list[SkipMask]:
    asked: list[SkipMask] = []
    while len(asked) < trials and (masks := sampler.ask(batch)):
        for mask in masks:
            sampler.tell(mask, additive(mask))
        asked += masks
    return asked


def fail(sampler: BaseSampler, count: int) -> None:
    """Ask for `count` masks and report that they failed."""
    for mask in sampler.ask(count):
        sampler.tell(mask, nan)


@pytest.mark.parametrize(("batch", "growth"), [(1, 8), (4, 20)])
def test_the_optimum_of_additive_gains_takes_few_trials_beyond_the_singles(
    batch: int, growth: int
) -> None:
    asked = run(GreedySampler(SPACE, 0), 9 + growth, batch)
    assert max(asked, key=additive) == SPACE.mask(i for i in range(8) if WORTH[i] > 0)


def test_singles_are_asked_first() -> None:
    asked = GreedySampler(SPACE, 0).ask(9)
    assert asked == [SkipMask.empty(4), *(SkipMask.empty(4).flip(i) for i in range(8))]


def test_masks_along_the_ranking_come_after_the_singles() -> None:
    sampler = GreedySampler(SPACE, 0)
    run(sampler, 9, batch=9)
    order = sorted(range(8), key=lambda i: -WORTH[i])
    assert sampler.ask(7) == [SPACE.mask(order[:n]) for n in range(2, 9)]


def test_masks_along_the_ranking_are_eight_at_most() -> None:
    space = MaskSpace(10)
    masks = ranking_prefixes(space, {i: -float(i) for i in range(20)})
    assert [len(mask.skipped) for mask in masks] == [3, 6, 9, 12, 15, 18]


def test_single_flips_are_tried_before_joint_additions() -> None:
    space = MaskSpace(10)
    sampler = GreedySampler(space, 0)
    for mask in sampler.ask(21):
        sampler.tell(mask, sum(1 - 0.1 * i for i in mask.skipped))
    fail(sampler, 6)
    center = space.mask([0])
    singles = [center.flip(i) for i in (1, 2, 3, 4)]
    # 2 and 8 more were among the masks along the ranking.
    together = [space.mask(range(1 + n)) for n in (4, 16, 19)]
    assert sampler.ask(8) == [*singles, *together, center.flip(5)]


def test_flips_are_ordered_by_the_latest_measured_gain() -> None:
    sampler = GreedySampler(SPACE, 0)
    run(sampler, 9, batch=9)
    fail(sampler, 7)
    center = SPACE.mask([0])
    for position, value in ((5, -1.0), (3, 0.1), (2, 0.35)):  # the reverse order
        sampler.tell(center.flip(position), value)
    sampler.tell(SPACE.mask([0, 7]), 0.5)
    # Of 5, 3 and 2, which led in this order, 2 loses least by the latest values.
    assert sampler.ask(1) == [SPACE.mask([0, 7, 2])]


def test_swaps_follow_when_no_single_change_is_left() -> None:
    sampler = GreedySampler(SPACE, 0)
    best = SPACE.mask([0, 2])
    sampler.tell(best, 9.0)
    for position in range(8):
        sampler.tell(SkipMask.empty(4).flip(position), WORTH[position])
        sampler.tell(best.flip(position), WORTH[position])
    sampler.tell(SkipMask.empty(4), 0.0)
    found = [
        m
        for m in sampler.proposals()
        if len(m.skipped ^ best.skipped) == 2 and len(m.skipped) == 2
    ]
    assert len(found) == 2 * 6


def test_gains_are_measured_by_flips_in_both_directions() -> None:
    mask = SPACE.mask([0])
    values = {mask: 2.0, SkipMask.empty(4): 0.5, mask.flip(3): 2.25}
    assert measured_gains(mask, values, SPACE) == {0: 1.5, 3: 0.25}


def test_single_flips_drop_what_loses_and_add_what_gains() -> None:
    gains = {i: WORTH[i] for i in range(8)}
    flipped = [min(m.skipped ^ {1, 5}) for m in single_flips(SPACE, SPACE.mask([1, 5]), gains)]
    assert flipped == [0, 1, 3, 2, 7, 4, 6, 5]


def test_joint_additions_double_until_all_are_skipped() -> None:
    gains = {i: -float(i) for i in range(8)}
    found = list(joint_additions(SPACE, SPACE.mask([7]), gains))
    assert found == [SPACE.mask([7, *range(n)]) for n in (2, 4, 7)]


def test_swaps_keep_the_count_and_put_failed_singles_last() -> None:
    gains = {i: WORTH[i] for i in range(8)} | {4: -inf}
    found = list(swaps(SPACE, SPACE.mask([1, 0]), gains))
    assert found[0] == SPACE.mask([0, 5])
    assert {len(m.skipped) for m in found} == {2}
    assert found[-1] == SPACE.mask([1, 4])
    assert len(set(found)) == 12
