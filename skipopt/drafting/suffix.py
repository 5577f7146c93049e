"""Suffix decoding (Oliaro et al., arXiv 2411.04975): copies what most often followed.

Costs no forward. Drafts are point masses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.draft_memory.suffix_index import SuffixIndex
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.online.acceptance import COPIED, REMEMBERED

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory

IN_THE_TEXT = -1


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens that may follow, and how often they did.

    Attributes:
        tokens: each the most frequent one after those before it.
        score: sum over the tokens of the share of occurrences that went on so far.
        matched: last tokens that the occurrences have in common with the text.
        shares: for each token the share of the occurrences that lead to it.
        sources: for each token `copied`, or `remembered` if occurrences in earlier texts alone
            lead to it.
        others: for each token the next most frequent one in its place, after the same tokens;
            None where there is none.
    """

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    matched: int = 0
    shares: tuple[float, ...] = ()
    sources: tuple[str, ...] = ()
    others: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class _Occurrences:
    """Of the last tokens, first those in the text, each the latest first.

    Attributes:
        lengths: of the matches.
        tokens: what followed each.
        places: in the memory, or `IN_THE_TEXT`.
    """

    lengths: list[int]
    tokens: list[Sequence[int]]
    places: list[int]

    def of_length(self, length: int) -> _Occurrences:
        """Those that match at least so long."""
        return self._only([i for i, each in enumerate(self.lengths) if each >= length])

    def going_on(self, depth: int, token: int) -> _Occurrences:
        """Those that have the token at a depth."""
        return self._only(
            [i for i, row in enumerate(self.tokens) if len(row) > depth and row[depth] == token]
        )

    def _only(self, kept: list[int]) -> _Occurrences:
        if len(kept) == len(self.lengths):
            return self
        return _Occurrences(
            [self.lengths[i] for i in kept],
            [self.tokens[i] for i in kept],
            [self.places[i] for i in kept],
        )


class SuffixDrafter(Drafter):
    """Proposes what most often followed earlier occurrences of the last tokens.

    Each length of a match that occurs is tried: all occurrences that match at least so long vote
    for the next token, those that agree for the one after it, and so on. The draft ends after
    `factor` tokens for each that matched, and before a token to which less than `min_prob` of the
    occurrences lead (vLLM takes 1 and 0.1). Of all lengths, the one with the highest score is
    drafted, the longer match if two are equal.

    Occurrences in a memory of earlier texts have the same votes as those in the text. Of tokens
    with equal votes the one is drafted that occurred last in the text; if none did, the one that
    occurred last in the memory.

    Args:
        gamma: most tokens of a draft.
        factor: tokens drafted for each that matched.
        min_prob: least share of occurrences.
        memory: earlier texts to copy from too.

    Raises:
        UsageError: gamma below 1, factor not above 0, or min_prob outside [0, 1].
    """

    def __init__(
        self,
        gamma: int = 16,
        factor: float = 2.0,
        min_prob: float = 0.1,
        memory: DraftMemory | None = None,
    ) -> None:
        if gamma < 1:
            raise UsageError(f"gamma must be 1 or more, not {gamma}", hint="try gamma=16")
        if not factor > 0:
            raise UsageError(f"factor must be above 0, not {factor}", hint="try factor=1")
        if not 0 <= min_prob <= 1:
            raise UsageError(f"min_prob must lie in [0, 1], not {min_prob}")
        self.gamma = self.max_extra_rows = gamma
        self._factor, self._min_prob = factor, min_prob
        self._index = SuffixIndex()
        self._memory = memory

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        self.index(state.tokens)
        found = self.continuation(state.tokens, limit)
        return DraftTree.chain(found.tokens, sources=found.sources)

    def index(self, tokens: Sequence[int]) -> None:
        """Take in the text, of which only the end may be new since the last call."""
        self._index.index(tokens)

    def continuation(self, tokens: Sequence[int], limit: int) -> Continuation:
        """The best continuation, of at most `limit` tokens.

        If it follows an earlier text alone, that text counts as used.

        Args:
            tokens: the indexed text, and any number of tokens after it.
        """
        longest = min(limit, self.gamma)
        found = self._occurrences(tokens, longest)
        best, followed = Continuation(), IN_THE_TEXT
        for length in sorted(set(found.lengths), reverse=True):
            most = min(longest, max(1, int(self._factor * length)))
            if most <= best.score:
                break  # no shorter match can have a higher score
            continuation, place = self._vote(found.of_length(length), length, most)
            if continuation.score > best.score:
                best, followed = continuation, place
        if self._memory is not None and followed != IN_THE_TEXT:
            self._memory.use(followed)
        return best

    def _occurrences(self, tokens: Sequence[int], most: int) -> _Occurrences:
        matches = self._index.matches(tokens)
        lengths = [length for _, length in matches]
        following = [tokens[end : end + most] for end, _ in matches]
        places = [IN_THE_TEXT] * len(matches)
        if self._memory is not None:
            for length, row, place in self._memory.matches(tokens, most):
                lengths.append(length)
                following.append(row)
                places.append(place)
        return _Occurrences(lengths, following, places)

    def _vote(self, voters: _Occurrences, matched: int, most: int) -> tuple[Continuation, int]:
        """The continuation, and the place of the first occurrence that agrees with all of it."""
        tokens: list[int] = []
        shares: list[float] = []
        sources: list[str] = []
        others: list[int | None] = []
        least, agreeing = self._min_prob * len(voters.lengths), voters
        while len(tokens) < most:
            tail, count, other = _common(agreeing.tokens, len(tokens))
            if not tail or count < least:
                break
            if count < len(agreeing.lengths):
                agreeing = agreeing.going_on(len(tokens), tail[0])
            tail = tail[: most - len(tokens)]
            tokens += tail
            shares += [count / len(voters.lengths)] * len(tail)
            source = COPIED if agreeing.places[0] == IN_THE_TEXT else REMEMBERED
            sources += [source] * len(tail)
            others += [other, *[None] * (len(tail) - 1)]
        columns = (tuple(shares), tuple(sources), tuple(others))
        return Continuation(tuple(tokens), sum(shares), matched, *columns), agreeing.places[0]


def _common(rows: list[Sequence[int]], depth: int) -> tuple[Sequence[int], int, int | None]:
    """The most frequent token at a depth, how often it is there, and the next most frequent one.

    Of equally frequent ones the first. If all rows are equal, all their tokens from there on.
    """
    if rows.count(rows[0]) == len(rows):
        return rows[0][depth:], len(rows), None
    column = [row[depth] for row in rows if len(row) > depth]
    if not column:
        return [], 0, None
    (token, count), *others = Counter(column).most_common(2)
    return [token], count, others[0][0] if others else None
