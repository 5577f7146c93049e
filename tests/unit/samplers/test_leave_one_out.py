"""Leave-one-out gains and the ranking they give."""

from __future__ import annotations

from random import Random

import pytest

from skipopt.masks import MaskSpace
from skipopt.samplers.initial_masks import start_mask
from skipopt.samplers.leave_one_out import leave_one_out_gains, leave_one_out_masks
from skipopt.samplers.skip_counts import SensitivityRanking

LAYERS = 12
FREE = MaskSpace(LAYERS)
FIXED = MaskSpace(LAYERS, skip_count=9)


@pytest.mark.parametrize("space", [FREE, FIXED], ids=["free", "fixed"])
def test_leave_one_out_gains_are_exact_when_effects_add_up(space: MaskSpace) -> None:
    worth = [Random(2).gauss(0, 1) + i % 3 for i in range(2 * LAYERS)]
    singles = leave_one_out_masks(space)
    masks = [start_mask(space), *singles.values()]
    values = {m: sum(worth[i] for i in m.skipped) for m in masks}
    gains = leave_one_out_gains(space, singles, values)
    assert all(mask in space for mask in masks)
    offsets = [gains[i] - worth[i] for i in space.free]
    assert max(offsets) - min(offsets) < 1e-9


def test_a_sublayer_without_a_value_ranks_last() -> None:
    singles = leave_one_out_masks(FREE)
    values = {mask: 1.0 for i, mask in singles.items() if i != 4} | {start_mask(FREE): 2.0}
    ranking = SensitivityRanking.from_gains(FREE, leave_one_out_gains(FREE, singles, values))
    assert ranking.attention[-1] == 4
