"""KV caches over whole texts, for rows that run behind any of their positions.

Training and scoring use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, LinearAttentionLayer

from skipopt.models.text_states import PLAIN, CachedParts
from skipopt.runtime.kv_cache import CacheLayer, EmptyLayer, KeysAndValues


class ContextCache(Cache):
    """Keys and values of given texts; rows see them and one another, and are not stored.

    Nothing is written in place, so gradients can flow through the rows' own keys and values.

    Args:
        context: each layer's keys and values of the texts.  # (S, heads, N, D)
    """

    def __init__(self, context: Sequence[KeysAndValues]) -> None:
        super().__init__(layers=[_ContextLayer(each) for each in context])


class _ContextLayer(CacheLayer):
    def __init__(self, stored: KeysAndValues) -> None:
        super().__init__()
        self.keys, self.values, *index = stored
        self.index_keys = index[0] if index else None
        self.context_len = int(stored[0].shape[-2])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self._with_rows(self.keys, key_states), self._with_rows(self.values, value_states)

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        assert self.index_keys is not None
        return self._with_rows(self.index_keys, indexer_key_states)

    def _with_rows(self, stored: Tensor, rows: Tensor) -> Tensor:
        return torch.cat([stored, rows], -2)

    def get_seq_length(self) -> int:
        return self.context_len


class DraftCache(Cache):
    """The full model's keys and values of given texts, then slots for draft rows.

    Each forward of `n` rows overwrites the first `n` slots.

    Args:
        context: of each layer that has them, the keys and values of the texts.
            # (S, heads, N, D)
        rows: most draft rows of each text.
        parts: what each layer keeps; by default keys and values. Layers with states have none:
            they are set before the layer runs (`skipopt.scoring.stacked_states`).
    """

    def __init__(
        self, context: Sequence[KeysAndValues], rows: int, parts: Sequence[CachedParts] = ()
    ) -> None:
        given = iter(context)
        super().__init__(
            layers=[_draft_layer(each, given, rows) for each in parts or [PLAIN] * len(context)]
        )
        self.rows = rows

    def get_seq_length(self, layer_idx: int = 0) -> int:
        layers = (layer for layer in self.layers if isinstance(layer, _DraftLayer))
        return next((layer.context_len for layer in layers), 0)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def of_texts(self, texts: slice) -> DraftCache:
        """The cache of some of the texts, in the same memory."""
        part = DraftCache((), self.rows)
        part.layers = [
            layer.of_texts(texts) if isinstance(layer, _DraftLayer) else copy(layer)
            for layer in self.layers
        ]
        return part


class _DraftLayer(_ContextLayer):
    """Draft rows are written in place, so the large context is copied only once."""

    def __init__(self, stored: KeysAndValues, rows: int) -> None:
        super().__init__(tuple(_with_slots(each, rows) for each in stored))
        self.context_len = int(stored[0].shape[-2])

    def of_texts(self, texts: slice) -> _DraftLayer:
        assert self.keys is not None
        assert self.values is not None
        part = copy(self)
        part.keys, part.values = self.keys[texts], self.values[texts]
        part.index_keys = None if self.index_keys is None else self.index_keys[texts]
        return part

    def _with_rows(self, stored: Tensor, rows: Tensor) -> Tensor:
        end = self.context_len + rows.shape[-2]
        stored[..., self.context_len : end, :] = rows
        return stored[..., :end, :]


class _DraftLayerWithStates(LinearAttentionLayer, _DraftLayer):  # type: ignore[override]
    """Attention and a recurrence side by side."""

    is_compileable = False

    def __init__(self, stored: KeysAndValues, rows: int, number_of_states: int) -> None:
        _DraftLayer.__init__(self, stored, rows)
        LinearAttentionLayer.__init__(self, number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Only states are initialized when they are first written."""
        LinearAttentionLayer.lazy_initialization(self, *args, **kwargs)


def _draft_layer(parts: CachedParts, context: Iterator[KeysAndValues], rows: int) -> Any:
    if parts.states:
        if parts.keys:
            return _DraftLayerWithStates(next(context), rows, parts.states)
        return LinearAttentionLayer(parts.states)
    return _DraftLayer(next(context), rows) if parts.keys else EmptyLayer()


def _with_slots(stored: Tensor, rows: int) -> Tensor:
    return torch.cat([stored, stored.new_zeros(*stored.shape[:-2], rows, stored.shape[-1])], -2)
