"""How many rows of a round `cascade` verifies, and whether a draft of its model gains more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipopt.drafting.copies import Copy
from skipopt.drafting.guess_tree import GuessTree
from skipopt.online.acceptance import MarginAcceptance
from skipopt.online.state import OnlineState

# Further rows must gain so many times what they cost: of many guesses those are verified whose
# chances are overestimated. Tokens that the model has drafted are not chosen among others.
DOUBT = 1.25
MAX_DRAFT = 16  # tokens of a draft of the model, if nothing else is said
NEXT_ROWS = 4  # rows whose mean cost is that of the next one: single ones cost in steps
OUTDATED = 48  # rounds after the latest draft of the model until its gain is not known any more
ASSUMED_STEP = 0.5  # a draft step in plain steps, before one was measured


@dataclass(slots=True)
class DraftLength:
    """Ends a draft of the model where one more step is not expected to pay.

    A step pays if the token that it drafts is accepted, after all before it, more often than as
    many tokens are decoded otherwise in the time of the step and of one more row. Of drawn tokens
    no more is known than how many there are.

    Attributes:
        costs: of a step after 1, 2, … tokens, in tokens that are decoded in its time.
        drawn: tokens of a draft of drawn ones.
        drafted: tokens so far.
        chance: probability that all of them are accepted.
    """

    acceptance: MarginAcceptance
    costs: Sequence[float]
    drawn: int
    drafted: int = 0
    chance: float = 1.0

    def __call__(self, margin: float | None) -> bool:
        """Whether the draft goes on after a token of this margin; None if it was drawn."""
        cost = self.costs[self.drafted]
        self.drafted += 1
        if margin is None:
            return self.drafted < self.drawn
        self.chance *= self.acceptance.rate(margin)
        return self.chance * self.acceptance.usual >= cost


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
        if not tree.guesses:
            return 0, 0.0
        verify, chain = self.learned.verify, tree.chain_length
        seconds = verify.up_to(1 + len(tree.guesses))
        seconds[chain + 1 :] = [verify.tree * each for each in seconds[chain + 1 :]]
        return tree.rows_that_pay(seconds, self._rate(), DOUBT, at_least)

    @property
    def _step(self) -> float:
        """Seconds for each token that the model drafts."""
        return self.learned.draft_step.mean or ASSUMED_STEP * self.learned.verify.plain

    def _rate(self) -> float:
        """Tokens per second of the rounds that rows of this one are weighed against."""
        learned = self.learned
        if not learned.gate.enabled:
            return learned.rate
        if learned.drafted.known:
            return max(learned.rate, learned.drafted.per_second)
        tokens = 1 + self.gamma
        seconds = self.gamma * self._step + learned.verify(tokens)
        return max(learned.rate, tokens / seconds)

    def draft_length(self) -> DraftLength:
        """Where the draft of this round ends, before γ tokens."""
        learned = self.learned
        drafted = learned.drafted
        # The tokens after a draft are drafted too, so copies elsewhere do not make time dearer.
        rate = drafted.per_second if drafted.known else self._rate()
        verify = learned.verify.up_to(1 + self.gamma + NEXT_ROWS)
        rows = range(1, 1 + self.gamma)  # verified after so many tokens, less the current one
        more = [(verify[each + NEXT_ROWS] - verify[each]) / NEXT_ROWS for each in rows]
        costs = [rate * (self._step + each) for each in more]
        return DraftLength(learned.draft_acceptance, costs, self._drawn_length(verify))

    def read_ahead(self, copy: Copy) -> list[int]:
        """Its tokens that pay as further rows of a draft step: each may save a step."""
        tokens, chance = list[int](), 1.0
        for guess in copy.guesses(self.learned.copy_acceptance):
            chance *= guess.chance
            if chance * self._step < DOUBT * self.learned.verify.per_row:
                break
            tokens.append(guess.token)
        return tokens

    def _drawn_length(self, verify: Sequence[float]) -> int:
        """The length of drafts that emit most tokens per second, if all are alike.

        Args:
            verify: seconds of forwards over 1, 2, … rows.
        """
        usual = self.learned.draft_acceptance.usual
        tokens, speeds = 1.0, list[float]()
        for count in range(1, 1 + self.gamma):
            tokens += usual**count
            speeds.append(tokens / (count * self._step + verify[count]))
        return 1 + speeds.index(max(speeds))

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
