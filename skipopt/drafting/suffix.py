"""Suffix decoding (Oliaro et al., arXiv 2411.04975): copies what most often followed.

Costs no forward. Drafts are point masses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.suffix_index import Match, SuffixIndex
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError


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
    """

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    matched: int = 0
    shares: tuple[float, ...] = ()
    sources: tuple[str, ...] = ()


class SuffixDrafter(Drafter):
    """Proposes what most often followed earlier occurrences of the last tokens.

    Each length of a match that occurs is tried: all occurrences that match at least so long vote
    for the next token, those that agree for the one after it, and so on. The draft ends after
    `factor` tokens for each that matched, and before a token to which less than `min_prob` of the
    occurrences lead; both defaults are those of vLLM. Of all lengths, the one with the highest
    score is drafted, the longer match if two are equal.

    Args:
        gamma: most tokens of a draft.
        factor: tokens drafted for each that matched.
        min_prob: least share of occurrences.

    Raises:
        UsageError: gamma below 1, factor not above 0, or min_prob outside [0, 1].
    """

    def __init__(self, gamma: int = 16, factor: float = 1.0, min_prob: float = 0.1) -> None:
        if gamma < 1:
            raise UsageError(f"gamma must be 1 or more, not {gamma}", hint="try gamma=16")
        if not factor > 0:
            raise UsageError(f"factor must be above 0, not {factor}", hint="try factor=1")
        if not 0 <= min_prob <= 1:
            raise UsageError(f"min_prob must lie in [0, 1], not {min_prob}")
        self.gamma = self.max_extra_rows = gamma
        self._factor, self._min_prob = factor, min_prob
        self._index = SuffixIndex()

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        self.index(state.tokens)
        found = self.continuation(state.tokens, limit)
        return DraftTree.chain(found.tokens, sources=found.sources)

    def index(self, tokens: Sequence[int]) -> None:
        """Take in the text, of which only the end may be new since the last call."""
        self._index.index(tokens)

    def continuation(self, tokens: Sequence[int], limit: int) -> Continuation:
        """The best continuation, of at most `limit` tokens."""
        matches = self._index.matches(tokens)
        best = Continuation()
        for length in sorted({match.length for match in matches}, reverse=True):
            voters = [match for match in matches if match.length >= length]
            most = min(limit, self.gamma, max(1, int(self._factor * length)))
            found = self._vote(tokens, voters, most, length)
            if found.score > best.score:
                best = found
        return best

    def _vote(
        self, tokens: Sequence[int], voters: Sequence[Match], most: int, length: int
    ) -> Continuation:
        places = [match.end for match in voters]
        found: list[int] = []
        shares: list[float] = []
        score = 0.0
        while places and len(found) < most:
            token, count = Counter(tokens[place] for place in places).most_common(1)[0]
            if count < self._min_prob * len(voters):
                break
            found.append(token)
            shares.append(count / len(voters))
            score += count / len(voters)
            places = [p + 1 for p in places if tokens[p] == token and p + 1 < len(tokens)]
        return Continuation(tuple(found), score, length, tuple(shares), ("copied",) * len(found))
