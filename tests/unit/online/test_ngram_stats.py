"""How often copied tokens are accepted."""

from __future__ import annotations

import pytest

from skipopt.online.ngram_stats import MAX_MATCH, NgramAcceptance


def test_the_prior_grows_with_the_match() -> None:
    rates = NgramAcceptance()
    believed = [rates.rate(length) for length in range(MAX_MATCH + 1)]
    assert believed == sorted(believed)
    assert believed[0] == 0.0
    assert believed[-1] > 0.95
    assert rates.rate(MAX_MATCH + 5) == believed[-1]


def test_observations_change_the_rate_of_their_length_only() -> None:
    rates = NgramAcceptance()
    before = rates.rate(4)
    for _ in range(200):
        rates.observe(3, True)
        rates.observe(5, False)
    assert rates.rate(3) > 0.95
    assert rates.rate(4) == before
    assert rates.rate(5) < 0.1


def test_expected_tokens_of_a_copy_are_sums_of_products() -> None:
    rates = NgramAcceptance()
    a, b = rates.rate(2), rates.rate(3)
    assert rates.expected(2, 2) == pytest.approx([0.0, a, a + a * b])
    assert rates.expected(2, 0) == [0.0]
