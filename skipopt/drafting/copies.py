"""Copies from the text, and from earlier ones, with the chance of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.drafting.guess_tree import Guess
from skipopt.drafting.suffix import Continuation, SuffixDrafter
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.online.acceptance import NgramAcceptance

# Tokens of a copy for each that matched: how many of them pay is decided from their chances.
LENGTHENING = 16.0


@dataclass(frozen=True, slots=True)
class Copy:
    """What could be copied.

    Attributes:
        found: the tokens.
        after: number of drafted tokens that they would follow.
    """

    found: Continuation
    after: int = 0

    def guesses(self, rates: NgramAcceptance) -> list[Guess]:
        """The tokens with their chances: the longer the match and the more agree, the larger.

        Args:
            rates: by length of the match, of tokens that all occurrences agree on.
        """
        found = self.found
        return [
            Guess(token, rates.rate(found.matched + i) * share, source)
            for i, (token, share, source) in enumerate(
                zip(found.tokens, found.shares, found.sources, strict=True)
            )
        ]

    def judge(self, rates: NgramAcceptance, emitted: Sequence[int]) -> None:
        """Update the rates from the emitted tokens, up to the first that differs.

        If a drafted token before the copy was rejected, there is nothing to compare it with.
        """
        found = self.found
        pairs = zip(found.tokens, found.shares, emitted[self.after :], strict=False)
        for i, (guess, share, token) in enumerate(pairs):
            rates.observe(found.matched + i, guess == token, share)
            if guess != token:
                return


class CopyFinder:
    """Finds copies of at most `longest` tokens.

    Args:
        memory: earlier texts to copy from too.

    Raises:
        UsageError: `longest` below 1.
    """

    def __init__(self, longest: int, memory: DraftMemory | None = None) -> None:
        if longest < 1:
            raise UsageError(f"max_copy must be 1 or more, not {longest}")
        self._suffix = SuffixDrafter(longest, LENGTHENING, memory=memory)

    def index(self, tokens: Sequence[int]) -> None:
        """Take in the text, of which only the end may be new since the last call."""
        self._suffix.index(tokens)

    def find(self, tokens: Sequence[int], after: Sequence[int], room: int) -> Copy:
        """The copy, of at most `room` tokens, to append to the text and the tokens `after`."""
        context = [*tokens, *after] if after else tokens
        return Copy(self._suffix.continuation(context, room), len(after))
