"""How many rows of a round `cascade` verifies, and whether a draft of its model gains more."""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.drafting.guess_tree import GuessTree
from skipopt.online.state import OnlineState

# Further rows must gain so many times what they cost: of many guesses those are verified whose
# chances are overestimated. Tokens that the model has drafted are not chosen among others.
DOUBT = 1.25
OUTDATED = 48  # rounds after the latest draft of the model until its gain is not known any more
ASSUMED_STEP = 0.5  # a draft step in plain steps, before one was measured


@dataclass(frozen=True, slots=True)
class RowBudget:
    """Weighs rows against the tokens that are decoded otherwise in their time.

    Attributes:
        gamma: most tokens that the model drafts.
    """

    learned: OnlineState
    gamma: int

    def pays(self, tree: GuessTree, at_least: int = 0) -> tuple[int, float]:
        """How many rows of the tree pay, `at_least` of them in any case, and what they gain."""
        verify, chain = self.learned.verify, tree.chain_length
        seconds = verify.up_to(1 + len(tree.guesses))
        seconds[chain + 1 :] = [verify.tree * each for each in seconds[chain + 1 :]]
        return tree.rows_that_pay(seconds, self._rate(), DOUBT, at_least)

    def _rate(self) -> float:
        """Tokens per second of the rounds that rows of this one are weighed against."""
        learned = self.learned
        if not learned.gate.wants_draft:
            return learned.rate
        if learned.drafted.known:
            return max(learned.rate, learned.drafted.per_second)
        tokens = 1 + self.gamma
        seconds = ASSUMED_STEP * self.gamma * learned.verify.plain + learned.verify(tokens)
        return max(learned.rate, tokens / seconds)

    def model_gain(self, limit: int) -> float:
        """Expected gain of a draft of the model, of at most `limit` tokens.

        If it is not known or outdated, that of a draft which is right and takes no time: only a
        copy that no model draft can exceed then keeps one from being made.
        """
        learned = self.learned
        if learned.drafted.known and learned.rounds_since_drafted < OUTDATED:
            return learned.drafted.gain(learned.rate)
        rows = 1 + min(self.gamma, limit)
        return rows - learned.rate * learned.verify(rows)
