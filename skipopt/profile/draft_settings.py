"""How drafts with a mask are made, from some length of text on."""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask


@dataclass(frozen=True, slots=True)
class DraftSettings:
    """A mask with its γ and τ.

    Attributes:
        min_context: fewest tokens, prompt included, that a round with these settings begins with.
        draft_config: what makes drafts cheaper in addition to the mask.
    """

    min_context: int
    mask: SkipMask
    gamma: int
    tau: float
    draft_config: DraftConfig = UNCHANGED
