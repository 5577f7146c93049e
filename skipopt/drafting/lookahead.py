"""Lookahead decoding: drafts n-grams that the model generated in a Jacobi window.

Fu et al., arXiv 2402.02057: every verifying forward also runs a window of Jacobi iterations over
the tokens to come (`LookaheadWindow`). The columns of the window go into a pool, and the pool's
n-grams that begin with the current token are the draft. Drafting costs no forward, but extra rows.
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
from skipopt.sampling import largest

if TYPE_CHECKING:
    from skipopt.models.target import Target

MINIMUM = {"window": 1, "ngram": 2, "guesses": 1}


class LookaheadDrafter(Drafter):
    """Drafts up to `guesses` n-grams that begin with the current token, merged into one tree.

    The window starts with random tokens of the prompt. It takes the likeliest tokens also when
    sampling, since an n-gram is drafted at other positions than it was found at, where the noise
    of its own positions would mean nothing. The emitted text does not depend on the window.

    Args:
        window: W, columns of the window.
        ngram: N, tokens of an n-gram, the first one included; 2 is Jacobi iteration.
        guesses: G, most n-grams kept for a first token, and drafted in a round.
        prompt_pool: whether n-grams of prompt and text go into the pool as well.

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
            if value < MINIMUM[name]:
                raise UsageError(f"{name} must be {MINIMUM[name]} or more, not {value}")
        self.max_extra_rows = most_rows(window, ngram - 1) + guesses * (ngram - 1)
        self._ends = target.eos_ids
        self._width, self._ngram = window, ngram
        self._pool = NgramPool(guesses)
        self._window: LookaheadWindow | None = None
        self._current = 0  # token of the running round
        self._prompt_pool = prompt_pool
        self._pooled = 0  # tokens of the text whose n-grams are in the pool
        self._random = Random(0)  # fixed, so that a decoding can be repeated

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if limit < 1:
            # The last token of the text: no draft or window is needed any more.
            return DraftTree()
        if self._prompt_pool:
            self._pool_text(state.tokens)
        if self._window is None:
            self._window = self._new_window(state.tokens)
        self._current = state.tokens[-1]
        tree = merged(self._pool.latest(self._current), limit)
        return replace(tree, extra_rows=self._window.extra_rows(len(tree.tokens)))

    def observe(self, outcome: RoundOutcome) -> None:
        if self._window is None or outcome.draft.extra_rows is None:
            return
        drafted = len(outcome.draft.tokens)
        likeliest = largest(self._window.continuations(outcome.logits, drafted))
        newest = [self._continuing(token) for token in likeliest]
        for key, *rest in self._window.roll(self._current, newest):
            self._pool.add(key, Ngram(tuple(rest), "window"))

    def _new_window(self, tokens: list[int]) -> LookaheadWindow:
        depth = self._ngram - 1
        seeds = self._random.choices(tokens, k=first_columns(self._width, depth))
        return LookaheadWindow(self._width, depth, seeds)

    def _continuing(self, token: int) -> int:
        """The token; if it ends a text, a random token of the window instead."""
        assert self._window is not None
        return self._random.choice(self._window.levels[0]) if token in self._ends else token

    def _pool_text(self, tokens: list[int]) -> None:
        for end in range(max(self._pooled, self._ngram - 1) + 1, len(tokens) + 1):
            key, *rest = tokens[end - self._ngram : end]
            self._pool.add(key, Ngram(tuple(rest), "text"))
        self._pooled = len(tokens)
