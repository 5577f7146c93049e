"""Decodes plainly until preparing the drafts of another drafter pays back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.tree import DraftTree
from skipopt.runtime.draft_mode import preparation_seconds, prior_speedup

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.runtime.break_even import Preparation


class DeferredDrafter(Drafter):
    """Hands everything on to `drafter` once that may draft (see `BreakEven`).

    When drafts begin depends on measured times, so it is only for verification that emits the same
    tokens whatever is drafted.

    Args:
        preparation: what the drafts need.
        speedup: expected of them; None if not known.
    """

    def __init__(
        self, target: Target, drafter: Drafter, preparation: Preparation, speedup: float | None
    ) -> None:
        self._target = target
        self._drafter = drafter
        self._preparation = preparation
        self._speedup = speedup
        self._begun = False
        self._put_off_before = target.runtime.break_even.tokens_put_off
        self.max_extra_rows = drafter.max_extra_rows
        self.wants_hidden = drafter.wants_hidden
        # A class variable elsewhere; here it is that of the drafter.
        self.best_verifier = drafter.best_verifier  # type: ignore[misc]

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        begun = self.may_begin(limit + 1)
        return self._drafter.propose(state, limit) if begun else DraftTree(put_off=True)

    def observe(self, outcome: RoundOutcome) -> None:
        if self._begun:
            self._drafter.observe(outcome)
        else:
            seconds = outcome.verify_seconds
            self._target.runtime.break_even.observe_plain(len(outcome.emitted), seconds)

    def may_begin(self, tokens_left: int) -> bool:
        """Whether the drafter may draft, in a text that may still get so many tokens."""
        self._begun = self._begun or self._prepared(tokens_left)
        return self._begun

    def _prepared(self, tokens_left: int) -> bool:
        break_even, needed = self._target.runtime.break_even, self._preparation
        if break_even.is_prepared(needed):
            return True
        if self._speedup is None:
            self._speedup = prior_speedup(self._target, needed)
        cost = preparation_seconds(self._target, needed, break_even.plain_seconds)
        if break_even.pays(self._speedup, cost, tokens_left, self._put_off_before):
            break_even.prepare(needed)
            return True
        return False
