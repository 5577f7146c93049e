"""The scored texts as one batch of query rows: one row per token of each draft.

A row attends to the full model's keys and values before the start of its draft, and to its own
draft up to itself. The rows are the same for every mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipopt.models.target import Target
from skipopt.runtime.attention_mask import attention_mask_format, within_window
from skipopt.runtime.engine import Engine
from skipopt.scoring.trace import ScoredText


class StackedBatch:
    """The scored texts as tensors, with the full model's keys and values.

    S texts, M positions of the longest text, J tokens per draft, N tokens of the longest text; the
    rows of one draft are adjacent.

    Attributes:
        queries: tokens that the rows read.  # (S, M·J)
        targets: tokens they should predict; −1 beyond the end of a text.  # (S, M·J)
        starts: positions at which their drafts begin.  # (S, M·J)
        positions: of the queries.  # (S, M·J)
        context: keys and values of each layer.  # pairs of (S, heads, N, D)
        shape: (S, M).
        lengths: scored positions of each text.  # (S,)
        steps, longest: J and N.
        window: tokens that drafts attend back to; None for all (see `DraftConfig`).
    """

    def __init__(
        self, target: Target, texts: Sequence[ScoredText], steps: int, window: int | None = None
    ) -> None:
        self.steps = steps
        self.window = window
        self.longest = max(len(text.tokens) for text in texts)
        self.lengths = np.array([len(text.continuation) for text in texts])
        self.shape = len(texts), int(self.lengths.max())
        rows = [_draft_rows(text, self.shape[1], steps) for text in texts]
        self.queries, self.targets, self.starts, self.positions = (
            torch.stack(parts).to(target.device) for parts in zip(*rows, strict=True)
        )
        self.context = _full_context(target, texts, self.longest)


class _DraftRows(NamedTuple):
    """Rows of one text; see `StackedBatch`.  # each (M·J,)"""

    queries: Tensor
    targets: Tensor
    starts: Tensor
    positions: Tensor


def _draft_rows(text: ScoredText, count: int, steps: int) -> _DraftRows:
    """`count` drafts of `steps` tokens; rows beyond the end of the text repeat its last query."""
    end = len(text.tokens) - 1  # the last token is a target only
    starts = text.scored_from - 1 + torch.arange(count)
    positions = starts[:, None] + torch.arange(steps)  # (M, J)
    tokens = torch.tensor(text.tokens)
    targets = torch.where(positions < end, tokens[(positions + 1).clamp(max=end)], -1)
    positions = positions.clamp(max=end - 1)
    starts = starts[:, None].clamp(max=end - 1).expand_as(positions)
    rows = (tokens[positions], targets, starts, positions)
    return _DraftRows(*(each.flatten() for each in rows))


def _full_context(
    target: Target, texts: Sequence[ScoredText], length: int
) -> list[tuple[Tensor, Tensor]]:
    """The full model's keys and values, padded to `length`.  # per layer (S, heads, N, D) twice"""
    per_text = []
    for text in texts:
        engine = Engine(target, length, captured=False)
        engine.prefill(text.tokens)
        per_text.append(engine.cache.contents())
    pairs = (zip(*layer, strict=True) for layer in zip(*per_text, strict=True))
    return [(torch.cat(keys), torch.cat(values)) for keys, values in pairs]


def attention_mask(target: Target, batch: StackedBatch, width: int) -> Any:
    """The mask under which `width` candidates are stacked, in the form that the model takes.

    Each row attends to the full model's context before its draft, and to its draft up to itself.

    # additive, (S, 1, W, N + W) with W = width·M·J, or one for each layer type
    """
    positions, starts = (t.repeat(1, width) for t in (batch.positions, batch.starts))  # (S, W)
    context = torch.arange(batch.longest, device=positions.device).expand(len(positions), -1)
    before = context[:, None] < starts[..., None]
    order = torch.arange(positions.shape[1], device=positions.device)
    drafts = order // batch.steps
    own = (drafts == drafts[:, None]) & (order <= order[:, None])
    attends = torch.cat([before, own.expand(len(positions), -1, -1)], -1)  # (S, W, N + W)
    keys = torch.cat([context, positions], -1)
    if batch.window is not None:
        attends = within_window(attends, positions, keys, batch.window)
    form = attention_mask_format(target.model)
    return form.build(attends, positions, keys, target.model.dtype)
