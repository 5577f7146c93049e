"""The lookahead branch of lookahead decoding (Fu et al., arXiv 2402.02057).

A window of guesses for the next tokens: several Jacobi iterations at once. A column, read from the
oldest iteration to the newest, is an n-gram that the model generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from skipopt.drafting.tree import ExtraRows
from skipopt.one_thread import one_thread

if TYPE_CHECKING:
    from torch import Tensor


class LookaheadWindow:
    """`width` columns of `depth` levels; level l, column c is the position l + c.

    Positions count from the current token, which takes the first place of level 0. A new window
    has level 0 only and `depth − 1` more columns; each of the first rounds adds a level and drops
    a column.

    If the current token is not the one that the window expected, the first column still yields
    the n-gram that was generated, which begins with the expected token. (The authors' code pairs
    the rest of the column with the current token, which it never followed.)

    Args:
        width: W, columns of the full window.
        depth: N − 1, levels of the full window.
        seeds: tokens of level 0; `first_columns(width, depth)` of them.
    """

    def __init__(self, width: int, depth: int, seeds: Sequence[int]) -> None:
        assert len(seeds) == first_columns(width, depth)
        self._depth = depth
        self.levels: list[list[int]] = [list(seeds)]

    @property
    def columns(self) -> int:
        """Columns at present."""
        return len(self.levels[0])

    def extra_rows(self, drafted: int) -> ExtraRows:
        """All rows except the current token's, for a draft of `drafted` tokens.

        A row of level 0 attends to level 0 up to itself. A row of level l attends to level 0 up to
        its own column, and to levels 1 … l of that column.
        """
        import torch

        level, column = torch.tensor(list(self._places()), dtype=torch.long).reshape(-1, 2).T
        oldest = (level == 0) & (column <= column[:, None])
        own = (level > 0) & (level <= level[:, None]) & (column == column[:, None])
        attends = torch.zeros(len(level), 1 + drafted + len(level), dtype=torch.bool)
        attends[:, 0] = True
        attends[:, 1 + drafted :] = oldest | own
        tokens = torch.tensor([token for row in self.levels for token in row][1:])
        return ExtraRows(tokens.long(), tuple((level + column).tolist()), attends)

    @one_thread()
    def continuations(self, logits: Tensor, drafted: int) -> Tensor:
        """The logits after the columns of the newest level.  # (1 + B + E, V) -> (columns, V)"""
        import torch

        if len(self.levels) > 1:
            return logits[-self.columns :]
        return torch.cat([logits[:1], logits[1 + drafted :]])

    def roll(self, current: int, newest: list[int]) -> list[tuple[int, ...]]:
        """Add a level and move on by one token.

        Args:
            current: the current token of this round.
            newest: the tokens chosen after the columns of the newest level.

        Returns:
            The n-grams that are complete now.
        """
        if len(self.levels) == 1:
            # The first column was continued after the current token.
            self.levels[0][0] = current
        levels = [*self.levels, newest]
        if len(self.levels) < self._depth:
            self.levels = [level[1:] for level in levels]
            return []
        self.levels = levels[1:]
        return list(zip(*levels, strict=True))

    def _places(self) -> Iterator[tuple[int, int]]:
        """(level, column) of every row except the current token's."""
        places = ((i, c) for i in range(len(self.levels)) for c in range(self.columns))
        return (place for place in places if place != (0, 0))


def first_columns(width: int, depth: int) -> int:
    """Columns of a new window."""
    return width + depth - 1


def most_rows(width: int, depth: int) -> int:
    """The most rows that a window ever has, without the current token's."""
    return max((width + depth - levels) * levels for levels in range(1, depth + 1)) - 1
