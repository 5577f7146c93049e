"""Copies from the text, and from earlier ones, with the chance of each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.drafting.guess_tree import Guess
from skipopt.drafting.suffix import Continuation, SuffixDrafter
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.online.acceptance import AcceptanceTable, CopyAcceptance

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

    def guesses(self, rates: CopyAcceptance, second: float = 0.0) -> list[Guess]:
        """The tokens with their chances: the longer the match and the more agree, the larger.

        Args:
            rates: by source and length of the match, of tokens that all occurrences agree on.
            second: how often the next most frequent token is right where one is wrong; above 0,
                these are alternatives.
        """
        guesses = []
        rows = zip(self._tokens(), self._others, strict=True)
        for (token, length, share, source), other in rows:
            chance = rates[source].rate(length) * share
            likely = (1.0 - chance) * second
            beside = (Guess(other, likely, source),) if other is not None and likely else ()
            guesses.append(Guess(token, chance, source, beside))
        return guesses

    def judge(
        self, rates: CopyAcceptance, emitted: Sequence[int], second: AcceptanceTable | None = None
    ) -> None:
        """Update the rates from the emitted tokens, up to the first that differs.

        If a drafted token before the copy was rejected, there is nothing to compare it with.

        Args:
            second: takes in whether the next most frequent token was right in its place.
        """
        rows = zip(self._tokens(), self._others, emitted[self.after :], strict=False)
        for (guess, length, share, source), other, token in rows:
            rates[source].observe(length, guess == token, share)
            if guess != token:
                if second is not None and other is not None:
                    second.observe(0, other == token)
                return

    @property
    def _others(self) -> Sequence[int | None]:
        return self.found.others or (None,) * len(self.found.tokens)

    def _tokens(self) -> Iterator[tuple[int, int, float, str]]:
        """Each token, the length of the match before it, the share of the occurrences there that
        go on with it, and its source.
        """
        found, before = self.found, 1.0
        for i, token in enumerate(found.tokens):
            yield token, found.matched + i, found.shares[i] / before, found.sources[i]
            before = found.shares[i]


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

    def find(self, tokens: Sequence[int], after: Sequence[int], room: int) -> Copy:
        """The copy, of at most `room` tokens, to append to the text and the tokens `after`.

        Of the text only the end may be new since the last call.
        """
        self._suffix.index(tokens)
        context = [*tokens, *after] if after else tokens
        return Copy(self._suffix.continuation(context, room), len(after))
