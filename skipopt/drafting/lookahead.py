"""N-grams that the model itself wrote while it looked ahead, drafted where their first token is.

Lookahead decoding (Fu et al., arXiv 2402.02057): every verifying forward also carries a window of
Jacobi iterations over the tokens to come (`LookaheadWindow`). Its columns go into a pool, and the
pool's n-grams that begin with the current token are the draft. No forward is spent on drafting.
Knows nothing of verification.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.lookahead_window import LookaheadWindow, first_columns, most_rows
from skipopt.drafting.ngrams import Ngram, NgramPool, merged
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.models.target import Target

LEAST = {"window": 1, "ngram": 2, "guesses": 1}


class LookaheadDrafter(Drafter):
    """Drafts up to `guesses` n-grams of the current token, as a tree of what they share.

    The window begins as tokens of the prompt at random. Its new tokens are the likeliest ones, in
    sampling too: an n-gram is drafted at other positions than the one it was found at, where the
    noise of that position would mean nothing. What is emitted never depends on it.

    Args:
        window: W, columns.
        ngram: N, tokens of an n-gram, its first one included; 2 is Jacobi iteration.
        guesses: G, n-grams kept for a token, and drafted in a round.
        prompt_pool: n-grams of prompt and text go into the pool, too.

    Raises:
        UsageError: window < 1, ngram < 2 or guesses < 1.
    """

    def __init__(
        self,
        target: Target,
        window: int = 3,
        ngram: int = 5,
        guesses: int = 3,
        prompt_pool: bool = True,
    ) -> None:
        given = {"window": window, "ngram": ngram, "guesses": guesses}
        for name, value in given.items():
            if value < LEAST[name]:
                raise UsageError(f"{name} must be {LEAST[name]} or more, not {value}")
        self.max_extra_rows = most_rows(window, ngram - 1) + guesses * (ngram - 1)
        self._ends = target.eos_ids
        self._width, self._ngram = window, ngram
        self._pool = NgramPool(guesses)
        self._window: LookaheadWindow | None = None
        self._current = 0  # token of the round under way
        self._prompt_pool = prompt_pool
        self._read = 0  # tokens of the text whose n-grams are in the pool
        self._random = Random(0)  # fixed, so that a decoding can be repeated

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if limit < 1:
            # The last token of the text: nothing will come after it.
            return DraftTree()
        if self._prompt_pool:
            self._read_text(state.tokens)
        if self._window is None:
            self._window = self._new_window(state.tokens)
        self._current = state.tokens[-1]
        tree = merged(self._pool.latest(self._current), limit)
        return replace(tree, extra_rows=self._window.extra_rows(len(tree.tokens)))

    def observe(self, outcome: RoundOutcome) -> None:
        if self._window is None or outcome.draft.extra_rows is None:
            return
        drafted = len(outcome.draft.tokens)
        likeliest = self._window.continuations(outcome.logits, drafted).argmax(-1).tolist()
        newest = [self._going_on(token) for token in likeliest]
        for key, *rest in self._window.roll(self._current, newest):
            self._pool.add(key, Ngram(tuple(rest), "window"))

    def _new_window(self, tokens: list[int]) -> LookaheadWindow:
        depth = self._ngram - 1
        seeds = self._random.choices(tokens, k=first_columns(self._width, depth))
        return LookaheadWindow(self._width, depth, seeds)

    def _going_on(self, token: int) -> int:
        """The token, or another where it would end the text: nothing stands behind an end."""
        assert self._window is not None
        return self._random.choice(self._window.levels[0]) if token in self._ends else token

    def _read_text(self, tokens: list[int]) -> None:
        for end in range(max(self._read, self._ngram - 1) + 1, len(tokens) + 1):
            key, *rest = tokens[end - self._ngram : end]
            self._pool.add(key, Ngram(tuple(rest), "text"))
        self._read = len(tokens)
