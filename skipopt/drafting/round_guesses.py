"""What `cascade` could guess in a round, and what it learns from the round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from skipopt.drafting.copies import Copy
from skipopt.drafting.guess_tree import Guess
from skipopt.online.state import OnlineState


@dataclass(frozen=True, slots=True)
class RoundGuesses:
    """What could be guessed in a round, verified or not.

    Attributes:
        current: the token before it.
        trunk: a copy; or a draft of the model, and the copy that follows it.
        copies: found in this round.
        levels: of the tokens that the model drafted, the levels of their confidence.
    """

    current: int = 0
    trunk: Sequence[Guess] = ()
    copies: Sequence[Copy] = ()
    levels: Sequence[int] = ()

    def drafted_right(self, emitted: Sequence[int]) -> int:
        """How many tokens that the model drafted were emitted, up to the first that was not."""
        pairs = zip(self.levels, self.trunk, emitted, strict=False)
        right = (guess.token == token for _, guess, token in pairs)
        return sum(takewhile(bool, right))

    def judge(self, learned: OnlineState, emitted: Sequence[int]) -> None:
        """Update acceptance rates from the emitted tokens: up to the first that differs."""
        for copy in self.copies:
            copy.judge(learned.copy_acceptance, emitted)
        for level, guess, token in zip(self.levels, self.trunk, emitted, strict=False):
            learned.draft_acceptance.observe(level, guess.token == token)
            if guess.token != token:
                for other in guess.alternatives:
                    learned.runner_up_acceptance.observe(level, other.token == token)
                return
