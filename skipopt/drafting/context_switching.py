"""One drafter after another as the text grows. Knows nothing of what they draft with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome

if TYPE_CHECKING:
    from skipopt.drafting.tree import DraftTree


class ContextSwitchingDrafter(Drafter):
    """Hands each round to the drafter of its length, and back what became of it.

    The length alone decides, and only rounds that are over made it: no draft, and no noise that
    verification will use, has a say. So the text stays what the drafters' own would be.

    A text only grows, so no drafter comes twice. What the one before learned of this machine and
    this text goes on (`online_state`, where there is one); a search for masks does not, since it
    begins with the mask of its length.

    Args:
        drafters: of one class, by the tokens of prompt and text they draft from; one from 0 on.
            All are made beforehand: they are cheap, the cache must have room for the `rows` of
            the largest, and a wrong option is told before the first round.
    """

    def __init__(self, drafters: Mapping[int, Drafter]) -> None:
        self._starts = sorted(drafters)
        self._drafters = [drafters[start] for start in self._starts]
        self._current = first = self._drafters[0]
        self.max_extra_rows = max(each.max_extra_rows for each in self._drafters)
        self.wants_hidden = first.wants_hidden
        # A property of classes; this class takes on that of the drafters.
        self.best_verifier = first.best_verifier  # type: ignore[misc]

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        drafter = self._drafters[bisect_right(self._starts, len(state.tokens)) - 1]
        if drafter is not self._current:
            transfer_state(self._current, drafter)
            self._current = drafter
        return drafter.propose(state, limit)

    def observe(self, outcome: RoundOutcome) -> None:
        self._current.observe(outcome)


def transfer_state(before: Drafter, after: Drafter) -> None:
    """Prices and habits of the text go over; the search for a mask stays each drafter's own."""
    learned, own = getattr(before, "online_state", None), getattr(after, "online_state", None)
    if learned is not None and own is not None:
        after.online_state = replace(learned, search=own.search)  # type: ignore[attr-defined]
