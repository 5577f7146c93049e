"""Switches between drafters as the text grows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, OnlineDrafter, RoundOutcome

if TYPE_CHECKING:
    from skipopt.drafting.tree import DraftTree


class ContextSwitchingDrafter(Drafter):
    """Uses in each round the drafter for the length of the text.

    The choice depends only on the length, so it does not bias sampling. A text only grows, so each
    drafter is used once. When a drafter with an `online_state` takes over, it takes the statistics
    of the one before, but not its mask search, which starts anew with the mask of the new length.

    Args:
        drafters: of one class, by the number of tokens (prompt and text) from which each is used;
            the first from 0. All are made beforehand, so that a wrong option is reported before
            the first round and the cache has room for the largest `max_extra_rows`.
    """

    def __init__(self, drafters: Mapping[int, Drafter]) -> None:
        self._starts = sorted(drafters)
        self._drafters = [drafters[start] for start in self._starts]
        self._current = first = self._drafters[0]
        self.max_extra_rows = max(each.max_extra_rows for each in self._drafters)
        self.wants_hidden = first.wants_hidden
        self.preparation = first.preparation
        # A class variable elsewhere; here it is that of the drafters.
        self.best_verifier = first.best_verifier  # type: ignore[misc]

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        return self.switch(len(state.tokens)).propose(state, limit)

    def switch(self, length: int) -> Drafter:
        """The drafter for a text of so many tokens, which is the current one from now on."""
        drafter = self._drafters[bisect_right(self._starts, length) - 1]
        if drafter is not self._current:
            transfer_state(self._current, drafter)
            self._current = drafter
        return drafter

    def observe(self, outcome: RoundOutcome) -> None:
        self._current.observe(outcome)


def transfer_state(before: Drafter, after: Drafter) -> None:
    """Give `after` the costs and acceptance statistics of `before`, but not its mask search."""
    if isinstance(before, OnlineDrafter) and isinstance(after, OnlineDrafter):
        mask_search = after.online_state.mask_search
        after.online_state = replace(before.online_state, mask_search=mask_search)
