"""Jacobi decoding: a block of guesses for the next tokens, all refined by every forward.

Song et al., arXiv 2002.03629; Santilli et al., arXiv 2305.10427, §3.2: the forward that verifies
the block is one Jacobi iteration. The guesses that it confirms are text; what the target chooses
at the later positions are the next guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.models.skip import skipping
from skipopt.sampling import largest

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.masks import SkipMask
    from skipopt.models.target import Target

GUESSED, REFINED, KEPT = "guessed", "refined", "kept"


class Guess(NamedTuple):
    """A token of the block, and whether it was guessed, refined or kept."""

    token: int
    source: str


class JacobiDrafter(Drafter):
    """Drafts the chain of its `block` guesses.

    A position that no forward has computed yet gets a random token of the text.

    Args:
        mask: sublayers to skip in the draft iterations.
        block: number of guesses in a round.
        draft_iterations: most Jacobi iterations of the draft model before verification; they end
            when one changes nothing. After n iterations the first n guesses are the tokens that
            the draft model would choose one by one.

    Raises:
        UsageError: block < 1, draft_iterations < 0, or draft_iterations without a mask.
    """

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None = None,
        block: int = 8,
        draft_iterations: int = 0,
    ) -> None:
        if block < 1:
            raise UsageError(f"block must be 1 or more, not {block}", hint="try block=8")
        if draft_iterations < 0:
            raise UsageError(
                f"draft_iterations must be 0 or more, not {draft_iterations}",
                hint="try draft_iterations=1",
            )
        if draft_iterations and mask is None:
            raise UsageError(
                "draft_iterations needs a mask",
                hint="give one with --profile, made by `skipopt search`, or leave it out",
            )
        self.block = self.max_extra_rows = block
        self.draft_iterations = draft_iterations
        self._skipping = None if mask is None else skipping(target, mask)
        self._last: RoundOutcome | None = None
        self._random = Random(0)  # fixed, so that a decoding can be repeated

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        size = min(self.block, limit)
        guesses = self._carried(state)[:size]
        guesses += [self._fresh(state) for _ in range(size - len(guesses))]
        guesses, forwards = self._refined(state, guesses)
        tokens = [guess.token for guess in guesses]
        return DraftTree.chain(tokens, (), forwards, [guess.source for guess in guesses])

    def observe(self, outcome: RoundOutcome) -> None:
        self._last = outcome

    def _carried(self, state: DraftState) -> list[Guess]:
        """What the last verification chose at the positions after the text."""
        if self._last is None:
            return []
        first = self._last.last_row + 1
        drafted = self._last.draft.tokens[first:]
        return _compared(drafted, _choices(state, self._last.logits[first:], drafted))

    def _fresh(self, state: DraftState) -> Guess:
        return Guess(self._random.choice(state.tokens), GUESSED)

    def _refined(self, state: DraftState, guesses: list[Guess]) -> tuple[list[Guess], int]:
        """The block after the iterations of the draft model, and their number."""
        if self._skipping is None or not guesses:
            return guesses, 0
        for done in range(self.draft_iterations):
            tokens = [guess.token for guess in guesses]
            guesses = _compared(tokens, self._pass(state, tokens))
            if all(guess.source == KEPT for guess in guesses):
                return guesses, done + 1
        return guesses, self.draft_iterations

    def _pass(self, state: DraftState, tokens: list[int]) -> list[int]:
        """What the draft model chooses at each position, given the guesses before it."""
        assert self._skipping is not None
        start = state.engine.position
        try:
            with self._skipping:
                logits = state.engine.step([state.tokens[-1], *tokens[:-1]])  # (n, V)
        finally:
            state.engine.rewind(start)
        return _choices(state, logits, tokens)


def _choices(state: DraftState, logits: Tensor, guesses: Sequence[int]) -> list[int]:
    """The tokens chosen from these logits, the first for the next position.  # (n, V) -> n

    Each row is processed as if the guesses before it were the text.

    A coupled sampler uses the noise of the positions, which stays the same in every iteration, so
    guesses converge when sampling, too (Santilli et al. treat greedy decoding; the proof is the
    same). For rejection sampling, which draws fresh, the likeliest token is the best guess.
    """
    if not len(logits):
        return []
    rows = state.processed(logits, [guesses[:i] for i in range(len(logits))])
    if not state.sampler.coupled:
        return largest(rows)
    position = len(state.tokens)
    return state.sampler.choose(rows, range(position, position + len(rows)))


def _compared(before: tuple[int, ...] | list[int], now: list[int]) -> list[Guess]:
    """Guesses with their sources; a position that had no guess before counts as refined."""
    kept = [i < len(before) and before[i] == token for i, token in enumerate(now)]
    return [Guess(t, KEPT if same else REFINED) for t, same in zip(now, kept, strict=True)]
