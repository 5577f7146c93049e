"""Where the last tokens of a text occurred before, by chains of equal n-grams (as in LZ77)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SIZES = (4, 2, 1)  # of the n-grams, the longest first
MAX_MATCH = 24  # longer matches count as this
MAX_MATCHES = 64  # the latest occurrences that are looked at
FIRST_SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier occurrence of the last tokens.

    Attributes:
        end: position of the token that followed it.
        length: of the match, in tokens; at most `MAX_MATCH`.
    """

    end: int
    length: int


class SuffixIndex:
    """Finds earlier occurrences of the last tokens of a growing text.

    An n-gram is found by its hash, and what is found is compared with the text. A position takes
    24 to 34 bytes.
    """

    def __init__(self) -> None:
        self._chains = [_Chain(size) for size in SIZES]

    def index(self, tokens: Sequence[int]) -> None:
        """Add what is new in the text.

        Args:
            tokens: the tokens of the previous call, and any number after them.
        """
        for chain in self._chains:
            chain.index(tokens)

    def matches(self, context: Sequence[int]) -> list[Match]:
        """The latest occurrences of the last tokens, the latest first.

        All of them match the longest of `SIZES` that has occurred.

        Args:
            context: the indexed tokens, and any number after them.
        """
        for chain in self._chains:
            found = [
                Match(end, length)
                for end in chain.ends(context)
                if (length := match_length(context, end)) >= chain.size
            ]
            if found:
                return found
        return []


class _Chain:
    """For each n-gram of one size, the positions after its occurrences.

    Attributes:
        size: tokens of an n-gram.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._latest = _empty(FIRST_SLOTS)  # by hash, the latest position; −1 for none
        self._before = array("i", [-1])  # for each position, the one before of the same hash

    def index(self, tokens: Sequence[int]) -> None:
        """Add the positions that a token follows."""
        if len(tokens) > len(self._latest):
            self._latest = _empty(2 * len(tokens))
            self._before = array("i", [-1])
        for end in range(len(self._before), len(tokens)):
            slot = self._slot(tokens, end) if end >= self.size else -1
            self._before.append(self._latest[slot] if slot >= 0 else -1)
            if slot >= 0:
                self._latest[slot] = end

    def ends(self, context: Sequence[int]) -> Iterator[int]:
        """Positions after n-grams of the hash of the last one, the latest first."""
        if len(context) < self.size:
            return
        end = self._latest[self._slot(context, len(context))]
        for _ in range(MAX_MATCHES):
            if end < 0:
                return
            yield end
            end = self._before[end]

    def _slot(self, tokens: Sequence[int], end: int) -> int:
        return hash(tuple(tokens[end - self.size : end])) % len(self._latest)


def match_length(tokens: Sequence[int], end: int) -> int:
    """How many tokens before the position `end` equal the last tokens; at most `MAX_MATCH`."""
    last, longest, length = len(tokens), min(end, MAX_MATCH), 0
    while length < longest and tokens[end - 1 - length] == tokens[last - 1 - length]:
        length += 1
    return length


def _empty(slots: int) -> array[int]:
    return array("i", [-1]) * slots
