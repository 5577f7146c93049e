"""Estimated costs of verification and of draft steps."""

from __future__ import annotations

import pytest

from skipopt.masks import SkipMask
from skipopt.online.online_costs import DraftCostEstimator
from skipopt.runtime.verify_costs import VerifyCostEstimator


def test_unknown_costs_are_in_plain_steps() -> None:
    cost = VerifyCostEstimator()
    assert cost(1) == cost.plain == 1.0
    assert 1.0 < cost(2) < cost(9)
    assert cost.per_row == pytest.approx(cost(9) - cost(8))


def test_costs_lie_on_the_measured_line_except_for_one_row() -> None:
    cost = VerifyCostEstimator()
    for _ in range(40):
        for rows in (1, 2, 5, 9):
            cost.observe(rows, 0.5 if rows == 1 else 1.0 + 0.1 * rows)
    assert cost(1) == pytest.approx(0.5)
    assert cost.per_row == pytest.approx(0.1, rel=0.1)
    assert cost(7) == pytest.approx(1.7, rel=0.02)
    assert cost(20) == pytest.approx(3.0, rel=0.05)


def test_trees_take_longer_by_a_factor_of_their_own() -> None:
    cost = VerifyCostEstimator()
    assert cost.tree > 1
    for _ in range(40):
        for rows in (1, 2, 5, 9):
            cost.observe(rows, 1.0 + 0.1 * rows)
        cost.observe_tree(5, 1.3 * 1.5)
    assert cost.tree == pytest.approx(1.3, rel=0.05)
    assert cost(5) == pytest.approx(1.5, rel=0.02)
    for _ in range(40):
        cost.observe_tree(5, 1.0)
    assert cost.tree == 1.0


def test_plain_step_is_inferred_from_longer_ones_until_one_is_measured() -> None:
    cost = VerifyCostEstimator()
    cost.observe(3, 1.4)
    assert cost.plain == pytest.approx(1.4 / (1 + cost.SECOND_ROW + 2 * cost.FURTHER_ROW))
    cost.observe(1, 0.2)
    assert cost.plain == 0.2


def test_a_row_never_has_a_negative_cost() -> None:
    cost = VerifyCostEstimator()
    for _ in range(20):
        cost.observe(2, 2.0)
        cost.observe(10, 1.0)
    assert cost.per_row == 0.0
    assert cost(10) == cost(2)


def test_one_slow_forward_hardly_moves_the_costs() -> None:
    cost = VerifyCostEstimator()
    for _ in range(20):
        cost.observe(4, 1.0)
    cost.observe(4, 1000.0)
    assert 1.0 < cost(4) < 1.4


def test_costs_follow_a_machine_that_becomes_slower() -> None:
    cost = VerifyCostEstimator()
    for factor in (1.0, 2.0):
        for _ in range(60):
            for rows in (1, 4):
                cost.observe(rows, factor * rows)
    assert cost(1) == pytest.approx(2.0, rel=0.01)
    assert cost(4) == pytest.approx(8.0, rel=0.01)


def test_costs_that_rise_in_steps_are_learned_for_each_number_of_rows() -> None:
    """Up to eight rows cost the same; the ninth costs half a plain step."""
    cost = VerifyCostEstimator()
    for _ in range(60):
        for rows in (1, 2, 5, 8, 9, 16):
            cost.observe(rows, 1.0 if rows == 1 else 1.1 if rows <= 8 else 1.6)
    found = cost.up_to(16)
    assert found == sorted(found)
    assert len(found) == 16
    assert found[7] - found[4] < 0.15 < 0.25 < found[8] - found[7]
    assert cost(9) == found[8]


def test_numbers_of_rows_keep_their_share_when_the_machine_becomes_slower() -> None:
    cost = VerifyCostEstimator()
    for factor in (1.0, 2.0):
        for _ in range(60):
            for rows in (1, 4, 8, 9) if factor == 1.0 else (1, 4, 9):
                cost.observe(rows, factor * (1.0 if rows <= 8 else 1.6))
    assert 2.0 <= cost(8) < cost(9) - 0.3


# --- cost of a draft step


def step(cost: DraftCostEstimator, skipped: int, plain: float = 1.0, layers: int = 4) -> float:
    """Seconds of a draft step that skips `skipped` sublayers."""
    verify = VerifyCostEstimator()
    verify.observe(1, plain)
    mask = SkipMask.from_bits([i < skipped for i in range(2 * layers)])
    return cost.costs(verify, max_gamma=4).draft_step(mask)


def test_the_cost_of_a_draft_step_falls_with_what_it_skips() -> None:
    cost = DraftCostEstimator(8)
    assert step(cost, 0, 2.0) == pytest.approx(2.0)
    for _ in range(300):
        cost.observe(4, 1.2, plain=2.0)
    assert step(cost, 4, 2.0) == pytest.approx(1.2, rel=1e-3)
    assert step(cost, 2, 2.0) == pytest.approx(1.6, rel=1e-3)
    assert step(cost, 4, 4.0) == pytest.approx(2.4, rel=1e-3), "a machine half as fast"


def test_draft_steps_cost_between_zero_and_a_plain_step() -> None:
    cost = DraftCostEstimator(8)
    for _ in range(300):
        cost.observe(2, 0.0, plain=1.0)
    assert step(cost, 8) == pytest.approx(0.0)
    for _ in range(300):
        cost.observe(2, 50.0, plain=1.0)
    assert step(cost, 8) == pytest.approx(1.0, abs=1e-3)
    cost.observe(0, 9.0, plain=1.0)
    assert step(cost, 8) == pytest.approx(1.0, abs=1e-3)


def test_with_a_draft_config_the_step_without_a_mask_is_measured() -> None:
    cost = DraftCostEstimator(8, cheaper=True)
    assert 0 < step(cost, 0, 2.0) < 2.0, "before anything is measured"
    for _ in range(300):
        cost.observe(0, 0.8, plain=2.0)
    assert step(cost, 0, 2.0) == pytest.approx(0.8)
    assert step(cost, 4, 2.0) == pytest.approx(0.8 * 0.55)
    for _ in range(300):
        cost.observe(4, 0.55, plain=2.0)
    assert step(cost, 4, 2.0) == pytest.approx(0.55, rel=1e-2)
    assert step(cost, 0, 2.0) == pytest.approx(1.0, rel=1e-2)


def test_estimated_costs_are_those_of_verification() -> None:
    verify = VerifyCostEstimator()
    verify.observe(1, 1.0)
    verify.observe(5, 2.0)
    costs = DraftCostEstimator(8).costs(verify, max_gamma=6)
    assert costs.verify == tuple(verify(rows) for rows in range(1, 8))
    assert costs.plain == verify.plain
