"""SWIFT's proposals: random masks of one ratio, every 25th from a Gaussian process."""

from __future__ import annotations

import pytest

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.swift import SwiftSampler, swift_space

DEPTH = 12
FREE = MaskSpace(DEPTH)
COUNT = 9  # 0.45 of the 20 sublayers between first and last layer
ENDS = {0, 1, 22, 23}


def test_the_start_mask_skips_every_other_layer_and_is_scored_like_any_other() -> None:
    (start,) = SwiftSampler(FREE, 0).ask(1)
    assert start == SkipMask.of(DEPTH, range(1, 11, 2), range(1, 11, 2))


def test_candidates_skip_one_number_of_sublayers_between_first_and_last_layer() -> None:
    masks = SwiftSampler(FREE, 0).ask(60)[1:]
    assert {len(mask.skipped) for mask in masks} == {COUNT}
    assert not any(mask.skipped & ENDS for mask in masks)
    assert len(set(masks)) == len(masks)


def test_a_fixed_skip_count_is_kept() -> None:
    space = MaskSpace(DEPTH, frozenset({4, 5}), skip_count=6)
    assert swift_space(space) == space
    assert all(mask in space for mask in SwiftSampler(space, 0).ask(20))


def test_frozen_sublayers_are_kept_in_addition_to_the_ends() -> None:
    masks = SwiftSampler(MaskSpace(DEPTH, frozenset({2, 3})), 0).ask(30)
    assert not any(mask.skipped & {2, 3} for mask in masks)
    assert {len(mask.skipped) for mask in masks[1:]} == {COUNT}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_models_of_few_layers_are_exhausted(depth: int) -> None:
    asked = SwiftSampler(MaskSpace(depth), 0).ask(4**depth + 1)
    assert len(set(asked)) == 4**depth


def test_every_25th_is_suggested_by_the_process_from_masks_that_were_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    wanted = SkipMask.of(DEPTH, range(1, 10))

    def suggest_mask(space: MaskSpace, values: dict[SkipMask, float], *_: object) -> SkipMask:
        seen.append(len(values))
        assert all(mask in space for mask in values)
        return wanted

    monkeypatch.setattr("skipopt.gaussian_process.suggest_mask", suggest_mask)
    sampler = SwiftSampler(FREE, 0)
    asked: list[SkipMask] = []
    for _ in range(30):
        (mask,) = sampler.ask(1)
        asked.append(mask)
        sampler.tell(mask, 0.5)
    assert asked[24] == wanted
    assert seen == [23]  # all but the start, which has another count
