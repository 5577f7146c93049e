"""Guesses from recycled tokens, and how often they were right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from skipopt.drafting.base import RoundOutcome
from skipopt.drafting.guess_tree import Guess
from skipopt.drafting.recycled_tokens import RecycledTokens
from skipopt.online.acceptance import RankAcceptance
from skipopt.online.state import OnlineState

SOURCE = "recycled"


class Recycling:
    """What followed each token in earlier verifications, with the chance of each rank.

    Args:
        learned: acceptance rates, which it updates.
    """

    def __init__(self, learned: OnlineState) -> None:
        self._learned = learned
        self._tokens = RecycledTokens()

    def beside(self, token: int, others: Sequence[Guess]) -> Iterator[Guess]:
        """Guesses for what follows `token`, the likeliest first, beside other guesses."""
        rates = self._rates(others)
        left = max(0.0, 1.0 - sum(other.chance for other in others))
        for rank, successor in enumerate(self._without(token, others)):
            yield Guess(successor, left * rates.rate(rank), SOURCE)

    def observe(self, current: int, trunk: Sequence[Guess], outcome: RoundOutcome) -> None:
        """Learn from a round: the rates of the ranks, and the successors.

        Args:
            current: the token before the round.
            trunk: the guesses that the draft began with, if any.
        """
        token, guesses = current, list(trunk)
        for emitted in outcome.emitted:
            first = guesses.pop(0) if guesses else None
            self._judge(token, () if first is None else (first, *first.alternatives), emitted)
            if first is not None and first.token != emitted:
                guesses = []
            token = emitted
        self._tokens.observe(current, outcome)

    def _judge(self, token: int, others: Sequence[Guess], emitted: int) -> None:
        """Learn which rank of its successors followed `token`, if none of the others did."""
        if any(other.token == emitted for other in others):
            return
        rates = self._rates(others)
        for rank, successor in enumerate(self._without(token, others)):
            rates.observe(rank, successor == emitted)

    def _rates(self, others: Sequence[Guess]) -> RankAcceptance:
        learned = self._learned
        return learned.sibling_acceptance if others else learned.recycled_acceptance

    def _without(self, token: int, others: Sequence[Guess]) -> Iterator[int]:
        """The successors of `token`, without the other guesses."""
        taken = {other.token for other in others}
        return (each for each in self._tokens.after(token) if each not in taken)
