"""What a drafter hands to verification. Knows nothing of who drafted or who verifies.

A draft is a tree of tokens below the current token; today's drafters make chains, trees of
width one, in which each token's parent is the one before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["point", "sampled"]


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Drafted tokens, and how they were drawn.

    Attributes:
        tokens: drafted ids.
        kind: `point` = deterministic (a point mass each), `sampled` = drawn from `rows`.
        rows: the processed draft probabilities each token was drawn from, float32,
            one (V,) row per token; empty for `point`.
        forwards: draft forwards spent.
    """

    tokens: tuple[int, ...] = ()
    kind: Kind = "point"
    rows: tuple[Tensor, ...] = ()
    forwards: int = 0

    def __post_init__(self) -> None:
        if self.kind == "sampled" and len(self.rows) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} sampled tokens need as many probability rows")

    @property
    def parents(self) -> tuple[int, ...]:
        """Index of each token's parent; −1 is the current token."""
        return tuple(range(-1, len(self.tokens) - 1))
