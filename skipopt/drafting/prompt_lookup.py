"""Prompt lookup decoding (Saxena, 2023): copies what followed the last n-gram in the context.

Costs no forward. Drafts are point masses.
"""

from __future__ import annotations

from collections.abc import Sequence

from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError


class PromptLookupDrafter(Drafter):
    """Proposes up to `gamma` tokens after the latest earlier match of the last tokens.

    Longer n-grams are tried first. The index of n-grams grows with the text, so a lookup does not
    read the whole context again.

    Args:
        gamma: most tokens of a copy.
        max_ngram, min_ngram: most and fewest last tokens that must match.

    Raises:
        UsageError: gamma or min_ngram below 1, or max_ngram below min_ngram.
    """

    def __init__(self, gamma: int = 10, max_ngram: int = 3, min_ngram: int = 1) -> None:
        if gamma < 1:
            raise UsageError(f"gamma must be 1 or more, not {gamma}", hint="try gamma=10")
        if not 1 <= min_ngram <= max_ngram:
            raise UsageError(
                "min_ngram must be 1 or more, and max_ngram at least as large, "
                f"not {min_ngram} and {max_ngram}"
            )
        self.gamma = self.max_extra_rows = gamma
        self.sizes = range(max_ngram, min_ngram - 1, -1)
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        self.index(state.tokens)
        start = self.find(state.tokens)
        if start is None:
            return DraftTree()
        copy = state.tokens[start : start + min(self.gamma, limit)]
        return DraftTree.chain(copy, sources=["copied"] * len(copy))

    def index(self, tokens: Sequence[int]) -> None:
        """Add the positions after all n-grams, except those that end with the last token.

        Args:
            tokens: the tokens of the previous call, and any number after them.
        """
        for end in range(self._indexed + 1, len(tokens)):
            for size in self.sizes:
                if end >= size:
                    self._ends[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)

    def find(self, tokens: Sequence[int]) -> int | None:
        """The position after the latest earlier match of the last tokens; None without a match.

        Args:
            tokens: the indexed tokens, and any number after them.
        """
        for size in self.sizes:
            end = self._ends.get(tuple(tokens[-size:])) if len(tokens) > size else None
            if end is not None:
                return end
        return None
