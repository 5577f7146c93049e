"""The scored texts as tensors: a row for each token of each draft, and what it may see.

A row sees the full model's keys and values before its draft, and its own draft up to itself.
Knows nothing of skip masks: the rows of every candidate are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipopt.models.target import Target
from skipopt.runtime.attention_mask import attention_mask_format, within_window
from skipopt.runtime.engine import Engine
from skipopt.scoring.trace import ScoredText


class StackedBatch:
    """The scored texts as tensors, with the full model's keys and values.

    One row for each token of each draft, those of a draft in a row.

    queries, targets, positions, starts: (S, M·J); targets beyond a text's end are −1. `starts` are
    the places before which a row sees the full model's keys.
    context: keys and values of each layer, `longest` of each text.  # (S, heads, N, D)
    window: see `Levers`.
    """

    def __init__(
        self, target: Target, texts: Sequence[ScoredText], steps: int, window: int | None = None
    ) -> None:
        device = target.device
        self.steps = steps
        self.window = window
        self.longest = max(len(t.tokens) for t in texts)
        self.lengths = np.array([len(t.continuation) for t in texts])
        self.shape = len(texts), int(self.lengths.max())
        rows = [_draft_rows(text, self.shape[1], steps) for text in texts]
        self.queries, self.targets, self.starts, self.positions = (
            torch.stack(parts).to(device) for parts in zip(*rows, strict=True)
        )
        self.context = _full_context(target, texts, self.longest)


def _draft_rows(text: ScoredText, count: int, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, targets, starts and positions of `count` drafts of one text.  # each (M·J,)

    Rows beyond the end repeat a place inside, so that they do no harm.
    """
    end = len(text.tokens) - 1  # the last token is only a target
    starts = text.scored_from - 1 + torch.arange(count)
    places = starts[:, None] + torch.arange(steps)
    tokens = torch.tensor(text.tokens)
    targets = torch.where(places < end, tokens[(places + 1).clamp(max=end)], -1)
    places = places.clamp(max=end - 1)
    starts = starts[:, None].clamp(max=end - 1).expand_as(places)
    return tuple(t.flatten() for t in (tokens[places], targets, starts, places))  # type: ignore[return-value]


def _full_context(
    target: Target, texts: Sequence[ScoredText], length: int
) -> list[tuple[Tensor, Tensor]]:
    """Every layer's keys and values of every text, padded at the end.  # (S, heads, N, D)"""
    of_texts = []
    for text in texts:
        engine = Engine(target, length, captured=False)
        engine.prefill(text.tokens)
        of_texts.append(engine.cache.contents())
    pairs = (zip(*layer, strict=True) for layer in zip(*of_texts, strict=True))
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
