"""A draft: a tree of tokens below the current token. A chain is a tree of width one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.models.patch import Patch

DraftKind = Literal["point", "independent", "without-replacement"]


@dataclass(frozen=True, slots=True)
class ExtraRows:
    """Additional rows of the verifying forward. No drafted token attends to them.

    Attributes:
        inputs: token ids (E,), or embeddings as they enter the decoder (E, d).
        depths: each row's position relative to the current token, which has 0.
        attends: which rows each of them attends to: the current token, the B drafted tokens, the
            extra rows. All attend to the committed context.  # (E, 1 + B + E) bool
    """

    inputs: Tensor
    depths: tuple[int, ...]
    attends: Tensor


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Drafted tokens, their parents, and how they were drawn.

    Attributes:
        tokens: drafted ids; siblings are in the order they were drawn.
        parents: index of each token's parent, always an earlier one; −1 is the current token.
        kind: `point` = chosen, not drawn (a point mass each); else drawn from `draft_probs`,
            siblings `independent`ly or `without-replacement`.
        draft_probs: by parent, the processed probabilities that its children were drawn from,
            float32 (V,); empty for `point`.
        forwards: draft forwards used.
        guessed: tokens that these ran before it was known that they follow; see `GuessedSteps`.
        sources: for each token a word for where it came from; may be empty.
        extra_rows: additional rows of the verifying forward.
        verify_patch: verification runs under this patch, which reuses what the draft computed.
        put_off: it is empty because drafts do not pay back their preparation yet.
        margins: by how much the draft model's logit of each token exceeds that of its next
            choice; may be empty.
        runners_up: for each token the draft model's next choice in its place; may be empty.

    Raises:
        ValueError: parents or probabilities that do not fit the tokens.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    kind: DraftKind = "point"
    draft_probs: Mapping[int, Tensor] = field(default_factory=dict)
    forwards: int = 0
    sources: tuple[str, ...] = ()
    extra_rows: ExtraRows | None = None
    verify_patch: Patch | None = None
    put_off: bool = False
    margins: tuple[float, ...] = ()
    runners_up: tuple[int, ...] = ()
    guessed: int = 0

    def __post_init__(self) -> None:
        if len(self.parents) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens need as many parents")
        if any(not -1 <= parent < i for i, parent in enumerate(self.parents)):
            raise ValueError(f"a parent must come before its children: {self.parents}")
        if self.kind == "point" and self.draft_probs:
            raise ValueError("point-mass drafts have no draft probabilities")
        if self.kind != "point" and not set(self.parents) <= set(self.draft_probs):
            raise ValueError("every parent needs the probabilities its children were drawn from")

    @classmethod
    def chain(
        cls,
        tokens: Sequence[int],
        draft_probs: Sequence[Tensor] = (),
        forwards: int = 0,
        sources: Sequence[str] = (),
        extra_rows: ExtraRows | None = None,
    ) -> DraftTree:
        """A chain of tokens; if drawn, `draft_probs` holds the probabilities of each, in order."""
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
        """Whether each token's parent is the token before it."""
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    def depths(self) -> list[int]:
        """Each token's distance from the current token: 1 for its children."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths

    def branch(self, node: int) -> list[int]:
        """The tokens from below the current one (node −1) to this one, its own included."""
        tokens: list[int] = []
        while node >= 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def children(self) -> dict[int, list[int]]:
        """By parent, the indices of its children in the order they were drawn."""
        found: dict[int, list[int]] = {}
        for i, parent in enumerate(self.parents):
            found.setdefault(parent, []).append(i)
        return found

    def attends(self) -> Tensor:
        """The tree mask: each token attends to its ancestors and itself.

        The current token is row 0.  # (1 + B, 1 + B) bool
        """
        import torch

        mask = torch.eye(len(self.tokens) + 1, dtype=torch.bool)
        for i, parent in enumerate(self.parents):
            mask[i + 1] |= mask[parent + 1]
        return mask
