"""A drafter that times another one: when its first proposal begins, and how long each takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter

if TYPE_CHECKING:
    from skipopt.drafting.base import DraftState, RoundOutcome
    from skipopt.drafting.tree import DraftTree


class TimedDrafter(Drafter):
    """Hands every call on to `drafter`.

    Args:
        each_proposal: False reads the clock only once, before the first proposal: a reading
            synchronizes an accelerator, which costs time in every round.

    Attributes:
        started: reading before the first proposal, which is where the prefill ends; NaN before it.
        seconds: clock time of the last proposal.
        total_seconds: clock time of all proposals.
    """

    def __init__(
        self, drafter: Drafter, clock: Callable[[], float], each_proposal: bool = True
    ) -> None:
        self._drafter = drafter
        self._clock = clock
        self._each_proposal = each_proposal
        self._has_started = False
        self.wants_hidden = drafter.wants_hidden
        self.max_extra_rows = drafter.max_extra_rows
        self.started = float("nan")
        self.seconds = self.total_seconds = 0.0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if not self._has_started:
            self.started, self._has_started = self._clock(), True
        propose = self._timed if self._each_proposal else self._drafter.propose
        return propose(state, limit)

    def observe(self, outcome: RoundOutcome) -> None:
        self._drafter.observe(outcome)

    def _timed(self, state: DraftState, limit: int) -> DraftTree:
        began = self._clock()
        tree = self._drafter.propose(state, limit)
        self.seconds = self._clock() - began
        self.total_seconds += self.seconds
        return tree
