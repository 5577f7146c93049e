"""The scored texts as one batch of query rows: one row per token of each draft.

A row attends to the full model's keys and values before the start of its draft, and to its own
draft up to itself. The rows are the same for every mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipopt.models.patch import Patch
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import attention_mask_format, within_window
from skipopt.runtime.context_cache import DraftCache
from skipopt.runtime.kv_cache import KeysAndValues
from skipopt.scoring.stacked_states import StackedStates
from skipopt.scoring.text_contexts import TextContexts
from skipopt.scoring.trace import ScoredText


@dataclass(frozen=True, slots=True, eq=False)
class StackedBatch:
    """The scored texts as tensors, with the full model's keys and values.

    S texts, M positions of the longest text, J tokens per draft, N tokens of the longest context;
    the rows of one draft are adjacent.

    Attributes:
        queries: tokens that the rows read.  # (S, M·J)
        targets: tokens they should predict; −1 beyond the end of a text.  # (S, M·J)
        starts: positions at which their drafts begin.  # (S, M·J)
        positions: of the queries.  # (S, M·J)
        lengths: scored positions of each text.  # (S,)
        steps: J.
        window: tokens that drafts attend back to; None for all (see `DraftConfig`).
        cache: the keys and values of the texts before their last tokens, and slots for rows.
        width: most candidates that are stacked.
        states: of recurrent layers before each draft; None where there are none.
    """

    queries: Tensor
    targets: Tensor
    starts: Tensor
    positions: Tensor
    lengths: NDArray[np.int64]
    steps: int
    window: int | None
    cache: DraftCache
    width: int
    states: StackedStates | None = None

    @classmethod
    def of(
        cls,
        contexts: TextContexts,
        texts: Sequence[ScoredText],
        steps: int,
        stacked_rows: int,
        window: int | None = None,
    ) -> StackedBatch:
        """All positions of the texts; `stacked_rows` limits the rows of one forward."""
        lengths = np.array([len(text.continuation) for text in texts])
        rows = [_draft_rows(text, int(lengths.max()), steps) for text in texts]
        queries, targets, starts, positions = (
            torch.stack(each).to(contexts.target.device) for each in zip(*rows, strict=True)
        )
        slots = max(PART_ROWS * queries.shape[1], stacked_rows // len(texts))
        return cls(
            queries,
            targets,
            starts,
            positions,
            lengths,
            steps,
            window,
            DraftCache(
                _full_context(contexts, texts),
                slots,
                [layer.cached for layer in contexts.target.layers],
            ),
            _width(queries, stacked_rows, slots),
            StackedStates.of(contexts, texts, steps),
        )

    def states_patch(self) -> Patch:
        """Inside, modules that keep states run over the drafts as a batch."""
        return Patch(()) if self.states is None else self.states.patch(self.cache)

    @property
    def shape(self) -> tuple[int, int]:
        """S and M."""
        return len(self.queries), self.queries.shape[1] // self.steps

    def part(self, texts: slice, positions: slice, stacked_rows: int) -> StackedBatch:
        """Some positions of some texts, on the same keys and values and in the same slots.

        Args:
            positions: with a start and a stop.
        """
        first, last = positions.start * self.steps, positions.stop * self.steps
        rows = [
            each[texts, first:last]
            for each in (self.queries, self.targets, self.starts, self.positions)
        ]
        lengths = np.clip(self.lengths[texts] - positions.start, 0, rows[0].shape[1] // self.steps)
        queries, targets, starts, places = rows
        return replace(
            self,
            queries=queries,
            targets=targets,
            starts=starts,
            positions=places,
            lengths=lengths,
            cache=self.cache.of_texts(texts),
            width=_width(queries, stacked_rows, self.cache.rows),
            states=None if self.states is None else self.states.part(texts, positions),
        )


# Rows of a text that a part of a batch may stack, as a multiple of those of the whole.
PART_ROWS = 2


def _width(queries: Tensor, stacked_rows: int, slots: int) -> int:
    """How many candidates can be stacked."""
    return max(1, min(stacked_rows // queries.numel(), slots // queries.shape[1]))


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


@torch.inference_mode()
def _full_context(contexts: TextContexts, texts: Sequence[ScoredText]) -> list[KeysAndValues]:
    """The keys and values that rows attend to, padded to the longest of the texts.

    # per layer that has them (S, heads, N, D) twice
    """
    longest = max(len(text.tokens) for text in texts) - 1
    per_text = [contexts.of(text.tokens) for text in texts]
    layers = zip(*per_text, strict=True)
    return [
        tuple(_padded(stored, longest) for stored in zip(*layer, strict=True)) for layer in layers
    ]


def _padded(stored: Sequence[Tensor], length: int) -> Tensor:
    """Texts cut or padded with zeros to one length.

    # (1, …, n, D) each -> (S, …, N, D)
    """
    _, *heads, _, width = stored[0].shape
    whole = stored[0].new_zeros(len(stored), *heads, length, width)
    for row, text in zip(whole, stored, strict=True):
        count = min(length, text.shape[-2])
        row[..., :count, :] = text[0, ..., :count, :]
    return whole


def attention_mask(target: Target, batch: StackedBatch, width: int) -> Any:
    """The mask under which `width` candidates are stacked, in the form that the model takes.

    Each row attends to the full model's context before its draft, and to its draft up to itself.

    # additive, (S, 1, W, N + W) with W = width·M·J, or one for each layer type; None without
    # attention
    """
    if not any(layer.cached.keys for layer in target.layers):
        return None
    positions, starts = (t.repeat(1, width) for t in (batch.positions, batch.starts))  # (S, W)
    length = batch.cache.get_seq_length()
    context = torch.arange(length, device=positions.device).expand(len(positions), -1)
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
