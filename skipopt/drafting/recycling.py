"""Guesses from recycled tokens, and how often they were right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from skipopt.drafting.base import RoundOutcome
from skipopt.drafting.guess_tree import Guess
from skipopt.drafting.recycled_tokens import RecycledTokens
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

    def beside(self, token: int, other: Guess | None) -> Iterator[Guess]:
        """Guesses for what follows `token`, the likeliest first, beside another guess."""
        rates, left = self._learned.recycled_acceptance, 1.0
        if other is not None:
            rates, left = self._learned.sibling_acceptance, 1.0 - other.chance
        for rank, successor in enumerate(self._without(token, other)):
            yield Guess(successor, left * rates.rate(rank), SOURCE)

    def observe(self, current: int, trunk: Sequence[Guess], outcome: RoundOutcome) -> None:
        """Learn from a round: the rates of the ranks, and the successors.

        Args:
            current: the token before the round.
            trunk: the guesses that the draft began with, if any.
        """
        token, guesses = current, list(trunk)
        for emitted in outcome.emitted:
            other = guesses.pop(0) if guesses else None
            self._judge(token, other, emitted)
            if other is not None and other.token != emitted:
                guesses = []
            token = emitted
        self._tokens.observe(current, outcome)

    def _judge(self, token: int, other: Guess | None, emitted: int) -> None:
        """Learn which rank of its successors followed `token`."""
        if other is not None and other.token == emitted:
            return
        learned = self._learned
        rates = learned.recycled_acceptance if other is None else learned.sibling_acceptance
        for rank, successor in enumerate(self._without(token, other)):
            rates.observe(rank, successor == emitted)

    def _without(self, token: int, other: Guess | None) -> Iterator[int]:
        """The successors of `token`, without the other guess."""
        return (each for each in self._tokens.after(token) if other is None or each != other.token)
