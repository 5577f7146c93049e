"""How drafts are made from some length of text on. Knows nothing of files, or of who drafts."""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask


@dataclass(frozen=True, slots=True)
class DraftSettings:
    """A mask with its γ and τ.

    Attributes:
        start: tokens of prompt and text that a round begins with, at least.
        levers: what makes drafts cheaper beside the mask.
    """

    start: int
    mask: SkipMask
    gamma: int
    tau: float
    draft_config: DraftConfig = UNCHANGED
