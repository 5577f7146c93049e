"""Copy the continuation of the last n-gram from where it stood before in the context.

Saxena's prompt lookup decoding (2023): costs no forward. A point-mass draft.
"""

from __future__ import annotations

from skipopt.drafting.protocol import Drafter, DraftState
from skipopt.drafting.tree import DraftTree


class PromptLookupDrafter(Drafter):
    """Proposes up to `gamma` tokens after the latest earlier match of the last tokens.

    Longer n-grams are tried first. The index of n-grams grows with the text, so that a look-up
    does not read the whole context again.
    """

    def __init__(self, gamma: int = 10, longest: int = 3, shortest: int = 1) -> None:
        self.gamma = self.rows = gamma
        self.sizes = range(longest, shortest - 1, -1)
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        tokens = state.tokens
        self._extend_index(tokens)
        for size in self.sizes:
            end = self._ends.get(tuple(tokens[-size:])) if len(tokens) > size else None
            if end is not None:
                return DraftTree.chain(tokens[end : end + min(self.gamma, limit)])
        return DraftTree()

    def _extend_index(self, tokens: list[int]) -> None:
        """Remember where each n-gram ended, the last token's own n-grams excepted."""
        for end in range(self._indexed + 1, len(tokens)):
            for size in self.sizes:
                if end >= size:
                    self._ends[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
