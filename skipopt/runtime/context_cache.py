"""Texts whose keys and values are given: what rows behind them see, and never part of them.

Knows nothing of where they come from, and keeps nothing of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class ContextCache(Cache):
    """Keys and values of texts, with those of the rows behind them.  # each (S, heads, N, D)

    Out of place, so that gradients can flow through the rows' own.
    """

    def __init__(self, context: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers=[ContextLayer(keys, values) for keys, values in context])


class ContextLayer(CacheLayerMixin):
    """One layer's."""

    is_sliding = False
    is_compileable = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        return None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        assert self.keys is not None
        return int(self.keys.shape[-2])

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # the name of the same thing before transformers 5.20
