"""The speedup law, α, and shares of the decoding time."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import speedup_law as law

FREE = law.RelativeCosts(0.0, (1.0,) * 8)
EXPENSIVE = law.RelativeCosts(0.5, (1.0, 1.2, 1.4, 1.6))


def drafted(*rounds: tuple[int, int]) -> list[Any]:
    """Rounds from (drafted, accepted), each of which emits accepted + 1 tokens."""
    return [law.RoundCounts(n, accepted, accepted + 1) for n, accepted in rounds]


def test_a_round_costs_its_drafts_and_one_verification() -> None:
    assert EXPENSIVE.round(0) == 1.0
    assert EXPENSIVE.round(3) == pytest.approx(1.5 + 1.6)
    assert EXPENSIVE.round(1.5) == pytest.approx(0.75 + 1.3)


def test_a_length_that_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"v\(5\) was not measured, only up to v\(4\)"):
        EXPENSIVE.round(4)


def test_methods_without_drafts_have_speedup_one() -> None:
    assert law.speedup_of_rounds(drafted((0, 0), (0, 0)), EXPENSIVE) == 1.0


def test_rounds_of_different_lengths_are_weighted_by_cost() -> None:
    rounds = drafted((3, 3), (1, 0))
    tokens, cost = (4 + 1) / 2, ((1.5 + 1.6) + (0.5 + 1.2)) / 2
    assert law.speedup_of_rounds(rounds, EXPENSIVE) == pytest.approx(tokens / cost)


def test_the_law_of_leviathan_is_that_of_free_verification() -> None:
    costs = law.RelativeCosts(0.1, (1.0,) * 6)
    expected = (1 - 0.8**6) / ((1 - 0.8) * (5 * 0.1 + 1))
    assert law.speedup_if_independent(0.8, 5, costs) == pytest.approx(expected)


@pytest.mark.parametrize(("alpha", "speedup"), [(1.0, 5.0), (0.0, 1.0)])
def test_the_law_at_its_ends(alpha: float, speedup: float) -> None:
    assert law.speedup_if_independent(alpha, 4, FREE) == speedup


def test_both_laws_agree_on_independent_drafts_of_one_length() -> None:
    """Of 16 rounds with α = 1/2 and γ = 2: 8 accept none, 4 one, 4 both."""
    rounds = drafted(*[(2, 0)] * 8, *[(2, 1)] * 4, *[(2, 2)] * 4)
    assert law.alpha_of(rounds) == pytest.approx(0.5)
    found = law.speedup_of_rounds(rounds, EXPENSIVE)
    assert found == pytest.approx(law.speedup_if_independent(0.5, 2, EXPENSIVE))


def test_tokens_after_a_rejected_one_do_not_count_for_alpha() -> None:
    assert law.alpha_of(drafted((8, 1), (8, 1))) == 0.5
    assert law.alpha_of(drafted((3, 3))) == 1.0
    assert law.alpha_of(drafted((0, 0))) is None


def test_shares_are_of_the_whole_and_the_rest_is_the_hosts() -> None:
    spent = law.DecodingSeconds.sum_of(
        [law.DecodingSeconds(1.0, 0.2, 0.5), law.DecodingSeconds(3.0, 0.6, 1.9)]
    )
    shares = spent.shares()
    assert shares == pytest.approx({"draft_forwards": 0.2, "verify_forwards": 0.6, "host": 0.2})
