"""Statistics that the online state keeps of rounds, and the time it allows for a search."""

from __future__ import annotations

from itertools import pairwise

import pytest

from skipopt.online.config import OnlineConfig
from skipopt.online.state import OnlineState
from skipopt.runtime.verify_costs import VerifyCostEstimator


def test_rounds_of_each_kind_are_kept_apart() -> None:
    learned = OnlineState()
    learned.observe(tokens=1, rows=1, draft_seconds=0.0, verify_seconds=1.0, copied=False)
    learned.observe(tokens=4, rows=5, draft_seconds=0.0, verify_seconds=2.0, copied=True)
    assert not learned.drafted.known
    learned.observe(tokens=2, rows=4, draft_seconds=1.0, verify_seconds=1.5, copied=False)
    assert learned.drafted.per_second == pytest.approx(2 / 2.5)
    assert learned.verify(1) == 1.0
    assert learned.decode_seconds == pytest.approx(5.5)
    assert 1.2 < learned.rate < 1.4


def test_the_value_of_a_second_is_at_least_that_of_plain_steps() -> None:
    learned = OnlineState()
    assert learned.rate == 1.0
    learned.observe(tokens=1, rows=1, draft_seconds=0.0, verify_seconds=0.1, copied=False)
    for _ in range(9):
        learned.observe(tokens=1, rows=4, draft_seconds=1.0, verify_seconds=1.0, copied=False)
    assert learned.rate == pytest.approx(10.0)


def test_the_search_budget_stays_within_the_overhead() -> None:
    learned = OnlineState(search_seconds=1.0, decode_seconds=99.0)
    assert learned.overhead == pytest.approx(0.01)
    assert not learned.affords(0.1, overhead=0.01)
    assert learned.affords(0.1, overhead=0.02)
    assert OnlineState().overhead == 0.0
    assert not OnlineState().affords(1e-6, overhead=0.5)


def test_a_plain_step_of_earlier_texts_need_not_be_measured_again() -> None:
    costs = VerifyCostEstimator()
    costs.observe(1, 1.0)
    fresh, learned = OnlineState(), OnlineState(costs)
    for state in (fresh, learned):
        state.observe(3, 4, 1.0, 1.0, copied=False)
    assert not fresh.gate.wants_draft
    assert learned.gate.wants_draft


def test_short_texts_measure_a_plain_step_from_time_to_time() -> None:
    """None of them has as many rounds as lie between two measurements."""
    costs, plain = VerifyCostEstimator(), []
    state = OnlineState(costs)
    for number in range(600):
        if number % 10 == 0:
            state = OnlineState(costs)
        if state.gate.wants_draft:
            state.observe(3, 4, 1.0, 1.0, copied=False)
        else:
            plain.append(number)
            state.observe(1, 1, 0.0, 1.0, copied=False)
    gaps = [later - earlier for earlier, later in pairwise(plain)]
    every = OnlineConfig().plain_every
    assert plain[0] == 1
    assert max(gaps[:3]) < every / 2, "the first readings soon follow each other"
    assert every < min(gaps[4:]) <= max(gaps[4:]) < every + 10


def test_what_stands_beside_a_draft_does_not_count_for_it() -> None:
    """Of two seconds, one went into copies behind the draft."""
    learned = OnlineState()
    learned.observe(3, 20, 0.5, 1.5, copied=True)
    assert not learned.drafted.known
    learned.observe_drafted(3, 1.0)
    assert learned.drafted.per_second == 3.0
    assert learned.overall.per_second == 1.5


def test_trees_do_not_change_the_costs_of_chains() -> None:
    learned = OnlineState()
    learned.observe(3, 4, 1.0, 1.0, copied=False)
    before, tree = learned.verify(4), learned.verify.tree
    learned.observe(3, 4, 1.0, 1.4, copied=False, branches=True)
    assert learned.verify(4) == before
    assert learned.verify.tree > tree
