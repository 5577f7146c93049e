"""Learned embeddings that stand for tokens not yet written; the target fills them in one pass.

Slot i (from 0), placed i + 1 positions after the current token, guesses the token i + 2 places
after it; the current token's own row guesses the one before. Spec-Drafter (Xia et al., arXiv
2203.16487, §3.1) has a drafter of its own for such slots; here, as in PaSS (arXiv 2311.13581) and
BiTA (arXiv 2401.12522), it is the target itself, whole or thinned, and only the embeddings are
learned. Knows nothing of drafting or of training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor, nn

from skipopt.errors import MaskError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.trained.artefact import ArtefactError, fill, load, read_settings, save

Count = Annotated[int, Field(ge=1, le=64)]


@dataclass(frozen=True, slots=True)
class MaskTokenSettings:
    """What shapes mask tokens.

    Attributes:
        count: k, the number of slots.
        body: the skip mask of the model that fills them, as text; `none` is the whole model.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    count: Count
    body: str


class MaskTokens(nn.Module):
    """k distinct embeddings, in the space of what `get_input_embeddings()` returns.

    Models that scale embeddings do so either in that module, whose results these stand beside, or
    after it, where these are scaled with them.

    Attributes:
        embeddings: one row a slot.  # (k, d)
        body: sublayers that the model leaves out while it fills the slots; none is the whole.
    """

    def __init__(self, count: int, body: SkipMask, target: Target) -> None:
        super().__init__()
        self.body = body
        width = target.model.get_input_embeddings().weight.shape[-1]
        self.embeddings = nn.Parameter(torch.zeros(count, width))

    @property
    def settings(self) -> MaskTokenSettings:
        return MaskTokenSettings(len(self.embeddings), str(self.body))

    def after(self, embedded: Tensor, count: int | None = None) -> Tensor:
        """Embedded tokens with the first `count` slots (default: all) behind them.

        # (…, n, d) -> (…, n + count, d)
        """
        slots = self.embeddings[:count].to(embedded.dtype)
        return torch.cat([embedded, slots.expand(*embedded.shape[:-2], -1, -1)], -2)


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
        raise ArtefactError(f"{artefact.source!r}: setting body: {error}", error.hint) from None
    with torch.device("meta"):
        tokens = MaskTokens(settings.count, body, target)
    fill(tokens, artefact, target)
    return tokens
