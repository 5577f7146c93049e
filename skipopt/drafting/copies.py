"""Copies from the context: how long the match before a copy is, and what followed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.errors import UsageError
from skipopt.online.ngram_stats import MAX_MATCH


@dataclass(frozen=True, slots=True)
class Copy:
    """Tokens that could be copied from the context.

    Attributes:
        tokens: what followed the match.
        matched: length of the match, in tokens.
        after: number of drafted tokens that the copy would follow.
    """

    tokens: tuple[int, ...] = ()
    matched: int = 0
    after: int = 0


class CopyFinder:
    """Finds copies of at most `longest` tokens.

    Raises:
        UsageError: `longest` below 1.
    """

    def __init__(self, longest: int) -> None:
        if longest < 1:
            raise UsageError(f"max_copy must be 1 or more, not {longest}")
        self.longest = longest
        self._lookup = PromptLookupDrafter()

    def index(self, tokens: Sequence[int]) -> None:
        """Take in the text, of which only the end may be new since the last call."""
        self._lookup.index(tokens)

    def find(self, tokens: list[int], after: tuple[int, ...], room: int) -> Copy:
        """The copy, of at most `room` tokens, to append to the text and the tokens `after`."""
        context = [*tokens, *after] if after else tokens
        start = self._lookup.find(context)
        if start is None:
            return Copy(after=len(after))
        end = start + min(room, self.longest)
        return Copy(tuple(context[start:end]), match_length(context, start), len(after))


def match_length(tokens: Sequence[int], start: int) -> int:
    """How many tokens before `start` equal the last tokens; at most `MAX_MATCH`."""
    longest = min(start, MAX_MATCH)
    pairs = zip(reversed(tokens[start - longest : start]), reversed(tokens), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), longest)
