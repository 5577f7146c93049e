"""A timed drafter measures the time of drafting and changes nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest

from skipopt.drafting.base import Drafter
from skipopt.drafting.tree import DraftTree
from skipopt.measurement.timed_drafter import TimedDrafter


class Slow(Drafter):
    """Takes 2 seconds, then 3, then 4."""

    wants_hidden = True
    max_extra_rows = 7

    def __init__(self) -> None:
        self.now, self.cost, self.observed = 10.0, 2.0, 0

    def propose(self, state: Any, limit: int) -> DraftTree:
        self.now += self.cost
        self.cost += 1
        return DraftTree.chain([limit])

    def observe(self, outcome: Any) -> None:
        self.observed += 1


@pytest.mark.parametrize(("each_proposal", "last", "total"), [(True, 3.0, 5.0), (False, 0.0, 0.0)])
def test_the_start_and_the_proposals_are_timed(
    each_proposal: bool, last: float, total: float
) -> None:
    slow: Any = Slow()
    timed = TimedDrafter(slow, lambda: slow.now, each_proposal)
    state: Any = None
    assert math.isnan(timed.started)
    assert [timed.propose(state, n).tokens for n in (5, 6)] == [(5,), (6,)]
    assert (timed.started, timed.seconds, timed.total_seconds) == (10.0, last, total)


def test_everything_else_is_forwarded_to_the_drafter() -> None:
    slow = Slow()
    timed = TimedDrafter(slow, lambda: 0.0)
    outcome: Any = None
    timed.observe(outcome)
    assert slow.observed == 1
    assert (timed.wants_hidden, timed.max_extra_rows) == (True, 7)
