"""Draft steps over tokens that were guessed before, so that one forward drafts several tokens.

A copy drafts for the draft model, as in a vertical cascade (Cascade Speculative Drafting, arXiv
2312.11462): where a guess is what the draft model chooses or draws, the logits after it are there
already. The draft is the same as without guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.runtime.engine import Engine

Row = TypeVar("Row")
# Tokens that may follow those drafted so far, at most so many.
Expects = Callable[[Sequence[int], int], Sequence[int]]


class GuessedSteps(Generic[Row]):
    """The steps of one draft. The engine's position afterwards is of no meaning.

    Args:
        run: runs tokens in a row; what it returns after each.
        expects: asked before each forward; None guesses nothing.
        longest: most tokens of the draft.

    Attributes:
        forwards: so far.
        guessed: tokens that were run before it was known that they follow.
    """

    def __init__(
        self,
        engine: Engine,
        run: Callable[[Sequence[int] | Tensor], Sequence[Row]],
        expects: Expects | None,
        longest: int,
    ) -> None:
        self._engine, self._run, self._expects = engine, run, expects
        self._longest, self._start = longest, engine.position
        self._read: list[int] = []  # the current token, and what was drafted
        self._ran: Sequence[int] = ()  # the tokens of the latest forward
        self._rows: Sequence[Row] = ()
        self._used = 0  # of these rows
        self.forwards = self.guessed = 0

    def __call__(self, token: Sequence[int] | Tensor) -> Row:
        """What `run` returns after one more token, which stays on its device without guesses."""
        if self._expects is None:
            self.forwards += 1
            return self._run(token)[0]
        self._read.append(int(token[0]))
        if self._used == len(self._ran) or self._ran[self._used] != self._read[-1]:
            self._forward(self._expects)
        self._used += 1
        return self._rows[self._used - 1]

    def _forward(self, expects: Expects) -> None:
        drafted = self._read[1:]
        self._engine.rewind(self._start + len(drafted))
        guessed = expects(drafted, self._longest - len(self._read))
        self._ran = [self._read[-1], *guessed]
        self._rows = self._run(self._ran)
        self._used = 0
        self.forwards += 1
        self.guessed += len(guessed)
