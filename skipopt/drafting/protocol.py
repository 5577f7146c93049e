"""What every drafter is given and must answer. Knows nothing of verification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from skipopt.drafting.tree import DraftTree

if TYPE_CHECKING:
    from skipopt.runtime.engine import Engine
    from skipopt.sampling import Sampler


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
    sampler: Sampler


class Drafter(Protocol):
    """Guesses the next tokens; may be wrong at no other cost than time."""

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        """Up to `limit` tokens (0 is allowed) after the current one."""
        ...

    def observe(self, accepted: int, drafted: int) -> None:
        """Told after each round how many drafts were accepted."""
        ...
