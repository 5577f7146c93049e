"""Token Recycling (arXiv 2408.08696): trees of tokens that verification found likely before.

Costs no forward. Drafts are point masses.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from skipopt.drafting.base import DraftState, OnlineDrafter, RoundOutcome
from skipopt.drafting.guess_tree import MAX_ROWS, GuessTree
from skipopt.drafting.recycling import Recycling
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.online.state import OnlineState

if TYPE_CHECKING:
    from skipopt.models.target import Target


class TokenRecyclingDrafter(OnlineDrafter):
    """Proposes the likeliest successors of the current token, theirs, and so on.

    Successors are known of tokens that were in an earlier verification of this text. The paper's
    tree is fixed. This one takes the most probable paths, by how often each rank was right, and as
    many of them as pay at the measured cost of verification; where none do, it decodes plainly.

    Args:
        max_rows: most tokens of a tree.
        online_state: statistics of earlier texts, from the `online_state` of their drafter.

    Raises:
        UsageError: max_rows below 1.
        ModelError: the model cannot verify trees. Whether one is drafted depends on measured
            times, and whether the method is refused does not.
    """

    def __init__(
        self, target: Target, max_rows: int = MAX_ROWS, online_state: OnlineState | None = None
    ) -> None:
        if max_rows < 1:
            raise UsageError(f"max_rows must be 1 or more, not {max_rows}", hint="try max_rows=8")
        from skipopt.runtime.attention_mask import attention_mask_format

        attention_mask_format(target.model).require_trees()
        self.online_state = online_state or OnlineState(target.runtime.verify_costs)
        self.max_extra_rows = max_rows
        self._recycling = Recycling()
        self._current = 0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        learned, self._current = self.online_state, state.tokens[-1]
        if not self._recycling.knows(self._current):
            return DraftTree()
        rate, verify = learned.rate, learned.verify
        least = rate * verify.per_row / 2
        beside = partial(self._recycling.beside, learned)
        tree = GuessTree(self._current, (), beside, limit, self.max_extra_rows, least)
        count, _ = tree.rows_that_pay(verify.up_to(1 + len(tree.guesses)), rate)
        return tree.draft(count)

    def observe(self, outcome: RoundOutcome) -> None:
        self._recycling.observe(self.online_state, self._current, (), outcome)
        self.online_state.observe(
            tokens=len(outcome.emitted),
            rows=len(outcome.draft.tokens) + 1,
            draft_seconds=outcome.draft_seconds,
            verify_seconds=outcome.verify_seconds,
            copied=True,
        )
