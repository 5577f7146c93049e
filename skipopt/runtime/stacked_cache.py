"""The texts' keys and values for drafts that begin at every position of them at once.

Knows nothing of texts or masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from skipopt.runtime.context_cache import ContextLayer


class DraftCache(Cache):
    """Full-model keys and values of the texts, then one place per row for the draft's own.

    Args:
        context: keys and values of each layer.  # (S, heads, N, D)
        rows: places behind them.
    """

    def __init__(self, context: Sequence[tuple[Tensor, Tensor]], rows: int) -> None:
        super().__init__(layers=[_DraftLayer(keys, values, rows) for keys, values in context])


class _DraftLayer(ContextLayer):
    """Written in place: the context is large, and copied but once."""

    def __init__(self, keys: Tensor, values: Tensor, rows: int) -> None:
        super().__init__(_with_room(keys, rows), _with_room(values, rows))
        self.context = keys.shape[-2]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, self.context :] = key_states
        self.values[:, :, self.context :] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.context


def _with_room(held: Tensor, rows: int) -> Tensor:
    return torch.cat([held, held.new_zeros(*held.shape[:-2], rows, held.shape[-1])], -2)
