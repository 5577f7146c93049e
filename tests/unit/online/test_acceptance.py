"""How often guesses are accepted."""

from __future__ import annotations

from random import Random
from statistics import NormalDist

import pytest

from skipopt.online.acceptance import (
    MAX_MATCH,
    RANKS,
    DraftPrior,
    MarginAcceptance,
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


def test_acceptance_grows_with_the_margin() -> None:
    rates = MarginAcceptance(DraftPrior(error=0.5, accepted=0.8))
    margins = (float("nan"), 0.0, 0.1, 0.5, 2.0, 50.0)
    found = [rates.rate(margin) for margin in margins]
    assert found[:2] == pytest.approx([0.5, 0.5], abs=0.01)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("error", [0.1, 0.3, 3.0])
def test_the_error_of_the_margins_is_inferred_from_what_was_accepted(error: float) -> None:
    """Whatever was expected: a draft is right where a normal error does not turn the margin."""
    rates, random = MarginAcceptance(DraftPrior(error=0.5, accepted=0.8)), Random(1)
    for _ in range(400):
        margin = random.expovariate(1 / (2 * error))
        rates.observe(margin, margin + random.gauss(0.0, error) > 0)
    right = NormalDist(0.0, error)
    for margin in (0.2 * error, error, 2 * error):
        assert rates.rate(margin) == pytest.approx(right.cdf(margin), abs=0.12)


def test_one_surprise_does_not_overturn_what_many_tokens_told() -> None:
    rates = MarginAcceptance(DraftPrior(error=0.1, accepted=0.97))
    for _ in range(50):
        rates.observe(0.5, True)
    rates.observe(8.0, False)
    assert rates.rate(0.5) > 0.85


def test_a_draft_model_that_is_wrong_where_it_is_sure_is_not_believed() -> None:
    rates = MarginAcceptance(DraftPrior(error=0.1, accepted=0.97))
    for i in range(60):
        rates.observe(6.0, i % 4 == 0)
    assert rates.rate(6.0) < 0.4
    assert rates.rate(0.0) < 0.2


def test_drawn_tokens_are_accepted_as_often_as_all_so_far() -> None:
    rates = MarginAcceptance(DraftPrior(error=0.1, accepted=0.9))
    before = rates.rate(0.2)
    assert rates.rate(None) == rates.usual == pytest.approx(0.9)
    for _ in range(100):
        rates.observe(None, False)
    assert rates.usual < 0.3
    assert rates.rate(0.2) == before, "nothing was learned of margins"


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
