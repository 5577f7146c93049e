"""Mask tokens: trained embeddings that stand for future tokens; one forward fills them in.

Slot i (from 0), i + 1 positions after the current token, predicts the token i + 2 positions after
it; the current token's own row predicts the next token. Spec-Drafter (Xia et al., arXiv
2203.16487, §3.1) has a separate draft model for such slots. Here it is the target itself, whole
(as in PaSS, arXiv 2311.13581, and BiTA, arXiv 2401.12522) or under a skip mask, and only the
embeddings are trained.
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
        body: the skip mask of the model that fills them, as text; `none` is the full model.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    count: Count
    rank: Rank
    body: str


class MaskTokens(nn.Module):
    """Embeddings of k slots, in the space of the outputs of `get_input_embeddings()`.

    Slot i after a token with embedding e is E_M[i] + U_i·D·e. The second term tells the slot which
    token it follows (Spec-Drafter copies embeddings of the source into its slots).

    Attributes:
        embeddings: E_M, one row per slot.  # (k, d)
        body: sublayers that the model skips while it fills the slots; the empty mask = none.
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
        """The slots after tokens with these embeddings.  # (…, d) -> (…, k, d)"""
        k, width = self.embeddings.shape
        if not self.settings.rank:
            return self.embeddings.to(current.dtype).expand(*current.shape[:-1], k, width)
        shift: Tensor = self.up(self.down(current.to(self.embeddings.dtype)))
        shift = shift.view(*current.shape[:-1], k, width)
        return (self.embeddings + shift).to(current.dtype)

    def after(self, embedded: Tensor) -> Tensor:
        """Embedded tokens, followed by the slots of the last one.  # (…, n, d) -> (…, n + k, d)"""
        return torch.cat([embedded, self.slots(embedded[..., -1, :])], -2)


def make_mask_tokens(target: Target, count: int, rank: int, body: SkipMask) -> MaskTokens:
    """New mask tokens, all zero; see `MaskTokenSettings`."""
    return MaskTokens(MaskTokenSettings(count, rank, str(body)), body, target)


def save_mask_tokens(
    path: str | Path, tokens: MaskTokens, target: Target, facts: dict[str, Any]
) -> None:
    """Write mask tokens and the facts about their training.

    Raises:
        OutputError: as `checkpoint.save`.
    """
    save(path, "mask-tokens", target, tokens, asdict(tokens.settings), facts)


def load_mask_tokens(path: str | Path, target: Target) -> MaskTokens:
    """Read mask tokens of this model, ready for use.

    Raises:
        CheckpointError: the file does not hold mask tokens of this model, or is damaged.
    """
    checkpoint = load(path, "mask-tokens", target)
    settings = read_settings(checkpoint, TypeAdapter(MaskTokenSettings))
    try:
        body = SkipMask.parse(settings.body, target.depth)
    except MaskError as error:
        raise CheckpointError(
            f"{checkpoint.source!r}: setting body: {error}", error.hint
        ) from None
    with torch.device("meta"):
        tokens = MaskTokens(settings, body, target)
    fill(tokens, checkpoint)
    return tokens.to(target.device, target.model.dtype)
