"""A window of guesses over the next tokens: several Jacobi iterations of different age at once.

The lookahead branch of lookahead decoding (Fu et al., arXiv 2402.02057). A column, read from the
oldest iteration to the newest, is an n-gram that the model wrote itself. Knows nothing of what
the n-grams are used for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from skipopt.drafting.tree import ExtraRows

if TYPE_CHECKING:
    from torch import Tensor


class LookaheadWindow:
    """`width` columns of `depth` levels; level l, column c stands l + c after the current token.

    In the forward the current token itself stands first in level 0. A new window has level 0 only,
    and as many more columns: the first rounds add a level and give up a column each.

    Where the current token is another than the window expected, the first column still yields the
    n-gram that was written: it begins with the expected token. (The authors' code pairs its rest
    with the current token, which it never followed.)

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
        return len(self.levels[0])

    def extra_rows(self, drafted: int) -> ExtraRows:
        """All rows but the current token's, beside a draft of so many tokens.

        A row of level 0 sees level 0 up to itself. One of level l sees level 0 up to its own
        column, and of that column levels 1 … l.
        """
        import torch

        level, column = torch.tensor(list(self._places()), dtype=torch.long).reshape(-1, 2).T
        oldest = (level == 0) & (column <= column[:, None])
        own = (level > 0) & (level <= level[:, None]) & (column == column[:, None])
        sees = torch.zeros(len(level), 1 + drafted + len(level), dtype=torch.bool)
        sees[:, 0] = True
        sees[:, 1 + drafted :] = oldest | own
        tokens = torch.tensor([token for row in self.levels for token in row][1:])
        return ExtraRows(tokens.long(), tuple((level + column).tolist()), sees)

    def continuations(self, logits: Tensor, drafted: int) -> Tensor:
        """Of the logits of the whole forward, those after the newest level's columns.

        # (1 + B + E, V) -> (columns, V)
        """
        import torch

        if len(self.levels) > 1:
            return logits[-self.columns :]
        return torch.cat([logits[:1], logits[1 + drafted :]])

    def roll(self, current: int, newest: list[int]) -> list[tuple[int, ...]]:
        """Go one token ahead; returns the n-grams that are complete now.

        Args:
            current: the token that stood first in level 0.
            newest: what comes after the newest level's columns.
        """
        if len(self.levels) == 1:
            # What comes after the first column was written behind the current token.
            self.levels[0][0] = current
        levels = [*self.levels, newest]
        if len(self.levels) < self._depth:
            self.levels = [level[1:] for level in levels]
            return []
        self.levels = levels[1:]
        return list(zip(*levels, strict=True))

    def _places(self) -> Iterator[tuple[int, int]]:
        """(level, column) of every row but the current token's."""
        places = ((i, c) for i in range(len(self.levels)) for c in range(self.columns))
        return (place for place in places if place != (0, 0))


def first_columns(width: int, depth: int) -> int:
    """Columns of a new window."""
    return width + depth - 1


def most_rows(width: int, depth: int) -> int:
    """Most rows of the window at any time, the current token not counted."""
    return max((width + depth - levels) * levels for levels in range(1, depth + 1)) - 1
