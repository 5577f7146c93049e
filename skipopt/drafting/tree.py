"""What a drafter hands to verification. Knows nothing of who drafted or who verifies.

A draft is a tree of tokens below the current token; a chain is a tree of width one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.models.patch import Patch

Kind = Literal["point", "independent", "without-replacement"]


@dataclass(frozen=True, slots=True)
class ExtraRows:
    """Rows that ride along in the verifying forward and that no drafted token ever sees.

    Attributes:
        inputs: token ids (E,), or embeddings as they enter the decoder (E, d).
        depths: each row's position relative to the current token, which has 0.
        sees: which rows it attends to, the current token first, then the drafted tokens, then the
            side rows themselves; the committed context is always seen.  # (E, 1 + B + E) bool
    """

    inputs: Tensor
    depths: tuple[int, ...]
    attends: Tensor


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Drafted tokens, how they hang together and how they were drawn.

    Attributes:
        tokens: drafted ids; siblings stand in the order they were drawn.
        parents: index of each token's parent, always an earlier one; −1 is the current token.
        kind: `point` = deterministic (a point mass each), else drawn from `rows`: siblings
            `independent`ly, or `without-replacement`.
        rows: by parent, the processed draft probabilities its children were drawn from,
            float32 (V,); empty for `point`.
        forwards: draft forwards spent.
        origins: a word for each token that tells where it came from; may be empty.
        side: rows that ride along in the verifying forward.
        reuse: verification runs under this patch, which saves what drafting computed already.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    kind: Kind = "point"
    draft_probs: Mapping[int, Tensor] = field(default_factory=dict)
    forwards: int = 0
    sources: tuple[str, ...] = ()
    extra_rows: ExtraRows | None = None
    verify_patch: Patch | None = None

    def __post_init__(self) -> None:
        if len(self.parents) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens need as many parents")
        if any(not -1 <= parent < i for i, parent in enumerate(self.parents)):
            raise ValueError(f"a parent must stand before its children: {self.parents}")
        if self.kind == "point" and self.draft_probs:
            raise ValueError("a point mass was drawn from no row")
        if self.kind != "point" and not set(self.parents) <= set(self.draft_probs):
            raise ValueError("every parent needs the row its children were drawn from")

    @classmethod
    def chain(
        cls,
        tokens: Sequence[int],
        draft_probs: Sequence[Tensor] = (),
        forwards: int = 0,
        sources: Sequence[str] = (),
        extra_rows: ExtraRows | None = None,
    ) -> DraftTree:
        """Each token after the one before; with `rows`, drawn from them in the same order."""
        return cls(
            tuple(tokens),
            tuple(range(-1, len(tokens) - 1)),
            "independent" if draft_probs else "point",
            {i - 1: row for i, row in enumerate(draft_probs)},
            forwards,
            tuple(sources),
            extra_rows,
        )

    @property
    def is_chain(self) -> bool:
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    def depths(self) -> list[int]:
        """Each token's distance from the current token: 1 for its children."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths

    def children(self) -> dict[int, list[int]]:
        """By parent, the indices of its children in the order they were drawn."""
        found: dict[int, list[int]] = {}
        for i, parent in enumerate(self.parents):
            found.setdefault(parent, []).append(i)
        return found

    def attends(self) -> Tensor:
        """Each row's ancestors and itself, the current token as row 0.  # (1 + B, 1 + B) bool"""
        import torch

        sees = torch.eye(len(self.tokens) + 1, dtype=torch.bool)
        for i, parent in enumerate(self.parents):
            sees[i + 1] |= sees[parent + 1]
        return sees
