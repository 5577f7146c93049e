"""What `cascade` could guess in a round, and what it learns from the round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from skipopt.drafting.base import RoundOutcome
from skipopt.drafting.copies import Copy
from skipopt.drafting.guess_tree import DRAFTED, Guess
from skipopt.drafting.tree import DraftTree
from skipopt.one_thread import one_thread
from skipopt.online.state import OnlineState

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RoundGuesses:
    """What could be guessed in a round, verified or not.

    Attributes:
        current: the token before it.
        trunk: a copy; or a draft of the model, and the copy that follows it.
        copies: found in this round.
        margins: of the tokens that the model drafted; None where they were drawn.
    """

    current: int = 0
    trunk: Sequence[Guess] = ()
    copies: Sequence[Copy] = ()
    margins: Sequence[float | None] = ()

    @classmethod
    def of_copy(
        cls, learned: OnlineState, current: int, copy: Copy, branches: bool
    ) -> RoundGuesses:
        """A copy alone.

        Args:
            branches: with what followed elsewhere in the place of each token.
        """
        second = learned.second_copy_acceptance.rate(0) if branches else 0.0
        return cls(current, copy.guesses(learned.copy_acceptance, second), [copy])

    def judge_draft(self, learned: OnlineState, outcome: RoundOutcome) -> None:
        """Take in what the tokens took and gave that the model drafted, if it did."""
        if not (self.margins and outcome.draft.tokens):
            return
        learned.draft_step.add_seconds(outcome.draft_seconds / len(self.margins))
        rows = learned.verify(1 + len(self.margins))
        seconds = outcome.draft_seconds + min(rows, outcome.verify_seconds)
        learned.observe_drafted(1 + self._drafted_right(outcome.emitted), seconds)

    def _drafted_right(self, emitted: Sequence[int]) -> int:
        """How many tokens that the model drafted were emitted, up to the first that was not."""
        pairs = zip(self.margins, self.trunk, emitted, strict=False)
        right = (guess.token == token for _, guess, token in pairs)
        return sum(takewhile(bool, right))

    def judge(self, learned: OnlineState, emitted: Sequence[int]) -> None:
        """Update acceptance rates from the emitted tokens: up to the first that differs."""
        for copy in self.copies:
            copy.judge(learned.copy_acceptance, emitted, learned.second_copy_acceptance)
        for margin, guess, token in zip(self.margins, self.trunk, emitted, strict=False):
            learned.draft_acceptance.observe(margin, guess.token == token)
            if guess.token != token:
                for other in guess.alternatives:
                    learned.runner_up_acceptance.observe(0, other.token == token)
                return


def drafted_guesses(
    learned: OnlineState, made: DraftTree, margins: Sequence[float | None], copy: Copy
) -> list[Guess]:
    """What the model drafted, with chances, and its second choices in their place; then a copy.

    Args:
        made: a chain.
        margins: of its tokens.
        copy: follows it.
    """
    guesses = []
    for i, (token, margin) in enumerate(zip(made.tokens, margins, strict=True)):
        chance = learned.draft_acceptance.rate(margin)
        others: tuple[Guess, ...] = ()
        if made.runners_up:
            second = (1.0 - chance) * learned.runner_up_acceptance.rate(0)
            others = (Guess(made.runners_up[i], second, "runner-up"),)
        guesses.append(Guess(token, chance, DRAFTED, others))
    second = learned.second_copy_acceptance.rate(0) if made.runners_up else 0.0
    return guesses + copy.guesses(learned.copy_acceptance, second)


def drawn_chain(draft: DraftTree, made: DraftTree) -> DraftTree:
    """A draft whose first tokens the model has drawn, with their distributions.

    Args:
        made: what the model has drawn.
    """
    probs = [made.draft_probs[i - 1] for i in range(len(made.tokens))]
    probs += [point_mass(token, probs[0]) for token in draft.tokens[len(probs) :]]
    return DraftTree.chain(draft.tokens, probs, draft.forwards, draft.sources)


@one_thread()
def point_mass(token: int, like: Tensor) -> Tensor:
    """Probability 1 for the token.  # (V,)"""
    probs = like.new_zeros(like.shape)
    probs[token] = 1.0
    return probs
