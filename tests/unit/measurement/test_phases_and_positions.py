"""Time by phase and acceptance by position, from samples whose rounds are written by hand."""

from __future__ import annotations

import pytest

from skipopt.measurement.metrics import acceptance_by_position, seconds_by_phase
from skipopt.measurement.timing import Decoding, Reached, Sample
from skipopt.rounds import Round

ROUNDS = (
    Round((1, 2, 3), 2, (1, 2, 9), draft_seconds=0.2, verify_seconds=0.3),
    Round((4, 5), 0, (8,), draft_seconds=0.1, verify_seconds=0.3),
)


def sample(rounds: tuple[Round, ...] = ROUNDS) -> Sample:
    decoding = Decoding((1, 2, 9, 8), 0.4, 1.0, 4, (Reached(4, 1.4),), rounds)
    return Sample("swift", 0, 0, decoding)


def test_the_time_of_a_token_is_divided_among_the_phases() -> None:
    found = seconds_by_phase([sample(), sample()])
    expected = {"prefill": 0.1, "draft": 0.075, "verify": 0.15, "other": 0.025}
    assert found == pytest.approx(expected)
    assert seconds_by_phase([sample(())]) == pytest.approx({"prefill": 0.1, "decode": 0.25})
    assert seconds_by_phase([]) == {}


def test_positions_count_drafting_rounds() -> None:
    assert acceptance_by_position([sample()]) == pytest.approx((0.5, 0.5, 0.0))
    assert acceptance_by_position([sample(())]) == ()
