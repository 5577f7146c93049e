"""What every drafter is given and must answer. Knows nothing of verification."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.tree import DraftTree

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.runtime.engine import Engine
    from skipopt.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class DraftState:
    """What may be looked at while drafting.

    Attributes:
        tokens: prompt and text so far; the last one is the current token, not yet in the cache.
        engine: runs forwards; its position is len(tokens) − 1 and must be so again afterwards.
        sampler: how tokens are chosen.
    """

    tokens: list[int]
    engine: Engine
    sampler: TokenSampler


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What one round came to.

    Attributes:
        draft: what was proposed.
        path: indices of the accepted tokens, from the root down.
        emitted: accepted tokens and the target's own, up to the end of the text.
        logits: the target's, after the current token, each draft, each side row.
            # (1 + B + E, V)
        hidden: what the output projection was given for the same rows, (1 + B + E, d); None
            unless the drafter `wants_hidden`.
        draft_seconds, verify_seconds: wall time of the two phases.
    """

    draft: DraftTree
    path: tuple[int, ...]
    emitted: tuple[int, ...]
    logits: Tensor
    hidden: Tensor | None = None
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0

    @property
    def last_row(self) -> int:
        """The row of `logits` that chose the target's own token."""
        return self.path[-1] + 1 if self.path else 0


class Drafter(ABC):
    """Guesses the next tokens; may be wrong at no other cost than time.

    Attributes:
        best_verifier: what verifies its drafts where the user does not say; `rejection` only
            pays for drafts that were drawn from probabilities.
        wants_hidden: `Outcome.hidden` is needed.
        rows: most rows beside the current token that a draft, its growth or its side branch
            puts into the cache.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "match"
    wants_hidden: bool = False
    max_extra_rows: int = 0

    @abstractmethod
    def propose(self, state: DraftState, limit: int) -> DraftTree:
        """A tree no deeper than `limit` (0 is allowed) below the current token."""

    def observe(self, outcome: RoundOutcome) -> None:
        """Told after each round what became of the draft."""
        return
