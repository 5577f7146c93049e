"""Learned embeddings that stand for tokens not yet written; the target fills them in one pass.

Slot i (from 0), placed i + 1 positions after the current token, guesses the token i + 2 places
after it; the current token's own row guesses the one before. Spec-Drafter (Xia et al., arXiv
2203.16487, §3.1) has a drafter of its own for such slots; here, as in PaSS (arXiv 2311.13581) and
BiTA (arXiv 2401.12522), it is the target itself, whole or thinned, and only what enters it is
learned. Knows nothing of drafting or of training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor, nn

from skipopt.drafting.checkpoints.checkpoint import (
    CheckpointError,
    fill,
    load,
    read_settings,
    save,
)
from skipopt.errors import MaskError
from skipopt.masks import SkipMask
from skipopt.models.target import Target

Count = Annotated[int, Field(ge=1, le=64)]
Rank = Annotated[int, Field(ge=0, le=1 << 16)]


@dataclass(frozen=True, slots=True)
class MaskTokenSettings:
    """What shapes mask tokens.

    Attributes:
        count: k, the number of slots.
        rank: r, of the map from the current token's embedding to the slots; 0 is none.
        body: the skip mask of the model that fills them, as text; `none` is the whole model.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    count: Count
    rank: Rank
    body: str


class MaskTokens(nn.Module):
    """k distinct embeddings, in the space of what `get_input_embeddings()` returns.

    Slot i of a current token with embedding e is E_M[i] + U_i·D·e: the second part (Spec-Drafter
    copies embeddings of the source into its slots) spares the slot looking up what it follows.
    Models that scale embeddings do so either in the module that makes them, whose results slots
    stand beside, or after it, where slots are scaled with them.

    Attributes:
        embeddings: E_M, one row a slot.  # (k, d)
        body: sublayers that the model leaves out while it fills the slots; none is the whole.
    """

    def __init__(self, settings: MaskTokenSettings, body: SkipMask, target: Target) -> None:
        super().__init__()
        self.settings = settings
        self.body = body
        width = target.model.get_input_embeddings().weight.shape[-1]
        self.embeddings = nn.Parameter(torch.zeros(settings.count, width))
        if settings.rank:
            self.down = nn.Linear(width, settings.rank, bias=False)
            self.up = nn.Linear(settings.rank, settings.count * width, bias=False)
            nn.init.zeros_(self.up.weight)

    def slots(self, current: Tensor) -> Tensor:
        """What stands behind current tokens of these embeddings.  # (…, d) -> (…, k, d)"""
        k, width = self.embeddings.shape
        if not self.settings.rank:
            return self.embeddings.to(current.dtype).expand(*current.shape[:-1], k, width)
        moved: Tensor = self.up(self.down(current.to(self.embeddings.dtype)))
        moved = moved.view(*current.shape[:-1], k, width)
        return (self.embeddings + moved).to(current.dtype)

    def after(self, embedded: Tensor) -> Tensor:
        """Embedded tokens with the slots of the last one behind.  # (…, n, d) -> (…, n + k, d)"""
        return torch.cat([embedded, self.slots(embedded[..., -1, :])], -2)


def make_mask_tokens(target: Target, count: int, rank: int, body: SkipMask) -> MaskTokens:
    """New ones, all zero; see `MaskTokenSettings`."""
    return MaskTokens(MaskTokenSettings(count, rank, str(body)), body, target)


def save_mask_tokens(
    path: str | Path, tokens: MaskTokens, target: Target, facts: dict[str, Any]
) -> None:
    """Write them with the facts of their training. Raises as `artefact.save` does."""
    save(path, "mask-tokens", target, tokens, asdict(tokens.settings), facts)


def load_mask_tokens(path: str | Path, target: Target) -> MaskTokens:
    """Read the mask tokens of this model, ready to be used.

    Raises:
        ArtefactError: the file does not hold this model's mask tokens, or is damaged.
    """
    artefact = load(path, "mask-tokens", target)
    settings = read_settings(artefact, TypeAdapter(MaskTokenSettings))
    try:
        body = SkipMask.parse(settings.body, target.depth)
    except MaskError as error:
        raise CheckpointError(f"{artefact.source!r}: setting body: {error}", error.hint) from None
    with torch.device("meta"):
        tokens = MaskTokens(settings, body, target)
    fill(tokens, artefact)
    return tokens.to(target.device, target.model.dtype)
