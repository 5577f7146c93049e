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
    """What followed each token in earlier verifications, with the chance of each rank."""

    def __init__(self) -> None:
        self._tokens = RecycledTokens()

    def knows(self, token: int) -> bool:
        """Whether any token is known to have followed `token`."""
        return bool(self._tokens.after(token))

    def beside(self, learned: OnlineState, token: int, others: Sequence[Guess]) -> Iterator[Guess]:
        """Guesses for what follows `token`, the likeliest first, beside other guesses.

        Args:
            learned: how often each rank is right.
        """
        rates = _rates(learned, others)
        left = max(0.0, 1.0 - sum(other.chance for other in others))
        for rank, successor in enumerate(self._without(token, others)):
            yield Guess(successor, left * rates.rate(rank), SOURCE)

    def observe(
        self,
        learned: OnlineState,
        current: int,
        trunk: Sequence[Guess],
        outcome: RoundOutcome,
    ) -> None:
        """Learn from a round: the rates of the ranks, and the successors.

        Args:
            learned: takes in how often each rank was right.
            current: the token before the round.
            trunk: the guesses that the draft began with, if any.
        """
        token, guesses = current, list(trunk)
        for emitted in outcome.emitted:
            first = guesses.pop(0) if guesses else None
            others = () if first is None else (first, *first.alternatives)
            self._judge(learned, token, others, emitted)
            if first is not None and first.token != emitted:
                guesses = []
            token = emitted
        self._tokens.observe(current, outcome)

    def _judge(
        self, learned: OnlineState, token: int, others: Sequence[Guess], emitted: int
    ) -> None:
        """Learn which rank of its successors followed `token`, if none of the others did."""
        if any(other.token == emitted for other in others):
            return
        rates = _rates(learned, others)
        for rank, successor in enumerate(self._without(token, others)):
            rates.observe(rank, successor == emitted)

    def _without(self, token: int, others: Sequence[Guess]) -> Iterator[int]:
        """The successors of `token`, without the other guesses."""
        taken = {other.token for other in others}
        return (each for each in self._tokens.after(token) if each not in taken)


def _rates(learned: OnlineState, others: Sequence[Guess]) -> RankAcceptance:
    return learned.sibling_acceptance if others else learned.recycled_acceptance
