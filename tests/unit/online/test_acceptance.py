"""How often guesses are accepted."""

from __future__ import annotations

import pytest

from skipopt.online.acceptance import (
    MAX_MATCH,
    RANKS,
    ConfidenceAcceptance,
    NgramAcceptance,
    RankAcceptance,
)


def test_the_prior_grows_with_the_match() -> None:
    rates = NgramAcceptance()
    believed = [rates.rate(length) for length in range(MAX_MATCH + 1)]
    assert believed == sorted(believed)
    assert believed[0] == 0.0
    assert believed[-1] > 0.95
    assert rates.rate(MAX_MATCH + 5) == believed[-1]


def test_observations_that_are_right_as_often_as_expected_change_no_other_length() -> None:
    rates = NgramAcceptance()
    before = rates.rate(4)
    for _ in range(200):
        rates.observe(3, True)
        rates.observe(5, False)
    assert rates.rate(3) > 0.95
    assert rates.rate(4) == pytest.approx(before, rel=0.02)
    assert rates.rate(5) < 0.1


def test_a_guess_of_less_weight_counts_less() -> None:
    """Half of the occurrences lead to each guess, and half of these guesses are right."""
    rates = NgramAcceptance()
    for i in range(400):
        rates.observe(2, i % 2 == 0, weight=0.5)
    assert rates.rate(2) == pytest.approx(1.0, abs=0.05)


def test_confidences_have_levels_and_an_unknown_one_its_own() -> None:
    rates = ConfidenceAcceptance()
    levels = [rates.level(each) for each in (0.0, 0.05, 0.95, 1.0, None)]
    assert levels == [0, 0, 9, 9, 10]
    before = rates.rate(9)
    for _ in range(100):
        rates.observe(10, False)
    assert rates.rate(10) < 0.1
    assert rates.rate(9) == before


def test_later_ranks_are_less_likely_before_anything_is_known() -> None:
    rates = RankAcceptance()
    believed = [rates.rate(rank) for rank in range(RANKS)]
    assert believed == sorted(believed, reverse=True)
    assert sum(believed) < 1


def test_copies_that_fail_throw_doubt_on_those_after_other_matches() -> None:
    """A text that repeats nothing: the next copy is longer matched, but of the same text."""
    rates = NgramAcceptance()
    before = rates.rate(6)
    for _ in range(4):
        rates.observe(3, False)
    assert rates.rate(6) < 0.75 * before
    for _ in range(40):
        rates.observe(3, True)
    assert rates.rate(6) > before
