"""Rounds of two settings on the same text, and the significance of their difference."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from support.traces import COSTS, MASK, trace, trace_of_rate

from skipopt.online.comparison import ComparisonResult, DraftParameters, PairedComparison
from skipopt.scoring import Trace

START = DraftParameters(MASK, gamma=3, tau=0.0)


def compared(candidate: DraftParameters, ours: str, theirs: str) -> ComparisonResult:
    comparison = PairedComparison(candidate, START)
    comparison.add(trace(ours), trace(theirs))
    return comparison.result(COSTS)


def test_speeds_are_those_of_the_rounds_from_every_position() -> None:
    """Rounds of γ = 2 from each of four positions."""
    one = DraftParameters(MASK, gamma=2, tau=0.0)
    comparison = PairedComparison(one, one)
    comparison.add(trace("xx.xx"), trace("xx.xx"))
    assert len(comparison) == 4
    tokens = 3 + 2 + 1 + 3
    seconds = 4 * COSTS.chain_rounds(MASK)[2]
    assert comparison.result(COSTS).candidate_speed == pytest.approx(tokens / seconds)


def test_a_round_ends_after_the_first_token_below_tau_which_is_drafted() -> None:
    sure = np.array([0.9, 0.2, 0.9], np.float32)[None, :, None]
    one = Trace(np.ones((1, 3, 1), bool), sure, np.array([3]))
    for tau, drafted in ((0.5, 2), (0.0, 3)):
        parameters = DraftParameters(MASK, 3, tau)
        comparison = PairedComparison(parameters, parameters)
        comparison.add(one, one)
        assert len(comparison) == 1
        speed = (drafted + 1) / COSTS.chain_rounds(MASK)[drafted]
        assert comparison.result(COSTS).candidate_speed == pytest.approx(speed)


def test_rounds_of_unequal_length_begin_at_the_same_positions() -> None:
    comparison = PairedComparison(DraftParameters(MASK, 1, 0.0), DraftParameters(MASK, 5, 0.0))
    comparison.add(trace("x" * 9), trace("x" * 9))
    assert len(comparison) == 5


def test_the_gain_is_positive_where_the_predicted_speed_is_higher() -> None:
    cheaper = DraftParameters(MASK.flip(4, 5), 3, 0.0)
    for hits in ("xx.xxxx.x.xxxxxxxxxx", "xx.xx....x..x.xxxx.x", "x..................."):
        found = compared(cheaper, hits, "xx.xxxx.x.xxxxxxxxxx")
        count = len(hits) - 3 + 1
        unbiased = (found.gain * (count + 1) + 1) / count  # without the added lost token
        assert (unbiased > 0) == (found.candidate_speed > found.current_speed)


def test_the_same_mask_is_no_better_than_itself() -> None:
    comparison = PairedComparison(START, START)
    for _ in range(20):
        comparison.add(trace("xx.x" * 8), trace("xx.x" * 8))
    found = comparison.result(COSTS)
    assert found.candidate_speed == found.current_speed
    assert found.gain < 0


def test_the_error_is_that_of_repeated_comparisons() -> None:
    """Tokens match with a given probability for each mask."""
    rng = Random(0)
    cheaper = DraftParameters(MASK.flip(4), 3, 0.0)
    results = []
    for _ in range(200):
        comparison = PairedComparison(cheaper, START)
        comparison.add(trace_of_rate(0.8, 200, rng), trace_of_rate(0.85, 200, rng))
        results.append(comparison.result(COSTS))
    spread = np.std([each.gain for each in results])
    estimated = np.mean([each.error for each in results])
    assert spread < estimated < 1.6 * spread, "never too small"
