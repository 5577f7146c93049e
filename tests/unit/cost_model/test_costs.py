"""Predicted seconds of draft steps and rounds."""

from __future__ import annotations

import pytest

from skipopt.cost_model.costs import Costs
from skipopt.masks import SkipMask

MASK = SkipMask.of(4, attention=[0, 1], mlp=[1, 3])
COSTS = Costs(
    overhead=1.0,
    attention=0.5,
    mlp=0.25,
    layer_overhead=0.125,
    verify=(4.5, 4.75, 5.5),
    confidence=0.0625,
    context=100,
    verify_tree=((3, 5.0), (7, 6.0)),
    attention_per_token=0.01,
    verify_per_token=0.1,
)


def test_a_draft_step_costs_its_unskipped_sublayers() -> None:
    assert COSTS.draft_step(MASK) == 1.0 + 2 * 0.5 + 2 * 0.25 + 3 * 0.125
    assert COSTS.draft_step(SkipMask.empty(4)) == COSTS.plain
    assert COSTS.draft_step(SkipMask.of(4, range(4), range(4))) == COSTS.overhead


def test_confidence_is_charged_only_with_a_threshold() -> None:
    assert COSTS.draft_step(MASK, tau=0.2) == COSTS.draft_step(MASK) + COSTS.confidence


def test_a_round_is_its_draft_steps_and_one_verification() -> None:
    step = COSTS.draft_step(MASK)
    assert COSTS.chain_rounds(MASK) == (4.5, step + 4.75, 2 * step + 5.5)


def test_trees_are_interpolated_between_measured_sizes() -> None:
    assert COSTS.tree(1) == COSTS.plain
    assert COSTS.tree(5) == pytest.approx(5.5)
    assert COSTS.tree(8) is None


def test_longer_contexts_cost_more_and_shorter_ones_the_same() -> None:
    longer = COSTS.at(110)
    assert longer.context == 110
    assert longer.attention == pytest.approx(0.6)
    assert longer.plain == pytest.approx(5.5)
    assert longer.tree(3) == pytest.approx(6.0)
    assert COSTS.at(50) == COSTS
