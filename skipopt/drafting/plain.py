"""Plain autoregressive decoding: no draft."""

from __future__ import annotations

from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.tree import DraftTree


class NoDrafter(Drafter):
    """Proposes nothing, so that each round is one plain step."""

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        return DraftTree()
