"""One preallocated KV cache with an explicit write position, shared by draft and verification.

Rewinding is moving the position: nothing is cloned, cropped or kept twice. The position does
not come from any layer's length, so a draft may skip every attention, layer 0's included.
Sliding-window layers store all positions too; their window is in the mask, which is by index.
Knows nothing of drafts or of acceptance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from skipopt.errors import PromptError

# First positions that a window does not hide: attention rests on them (arXiv 2309.17453).
SINKS = 4


class PositionCache(Cache):
    """Keys and values of up to `capacity` tokens, batch 1.

    Attributes:
        position: tokens held; the next forward writes from here on. Set it back to rewind.
        window: a step of one token is shown the first `SINKS` positions and so many of the
            latest, its own included; None = all.
    """

    def __init__(self, depth: int, capacity: int) -> None:
        self.position = 0
        self.capacity = capacity
        self.window: int | None = None
        super().__init__(layers=[_PositionLayer(self) for _ in range(depth)])

    def contents(self) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values over the whole capacity.  # (1, heads, capacity, D)"""
        layers = (layer for layer in self.layers if isinstance(layer, _PositionLayer))
        return [(x.keys, x.values) for x in layers if x.keys is not None and x.values is not None]

    def shown(self, end: int) -> int:
        """How many of the first `end` positions a step sees."""
        return end if self.window is None else min(end, SINKS + self.window)

    def move(self, start: int, kept: Sequence[int]) -> None:
        """Bring the entries `kept` together at `start`, in that order; the position stays."""
        for keys, values in self.contents():
            places = torch.tensor(kept, device=keys.device)
            for held in (keys, values):
                # Gathered first: places may overlap with where they go.
                held[:, :, start : start + len(kept)] = held.index_select(2, places)

    def room_for(self, count: int) -> None:
        """Raises PromptError where `count` more tokens do not fit."""
        if self.position + count > self.capacity:
            raise PromptError(
                f"{self.position + count} tokens do not fit in a cache of {self.capacity}",
                hint="shorten the prompt or lower --max-new-tokens",
            )


class _PositionLayer(CacheLayerMixin):
    is_sliding = False
    is_compileable = False
    is_croppable = True

    def __init__(self, owner: PositionCache) -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        capacity = self.owner.capacity
        self.dtype, self.device = key_states.dtype, key_states.device
        # Keys and values differ in width in some models (DeepSeek), so each has its own shape.
        self.keys = key_states.new_zeros(*key_states.shape[:-2], capacity, key_states.shape[-1])
        self.values = value_states.new_zeros(
            *value_states.shape[:-2], capacity, value_states.shape[-1]
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (B, H, n, D) at the position; return what is seen of everything up to there."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.owner.position
        end = start + key_states.shape[-2]
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self._seen(self.keys, end), self._seen(self.values, end)

    def _seen(self, held: Tensor, end: int) -> Tensor:
        window = self.owner.window
        if window is None or end <= SINKS + window:
            return held[:, :, :end]
        return torch.cat([held[:, :, :SINKS], held[:, :, end - window : end]], -2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.shown(self.owner.position + query_length), 0

    def get_seq_length(self) -> int:
        return self.owner.position

    def get_max_length(self) -> int:
        return self.owner.capacity

    get_max_cache_shape = get_max_length  # the name of the same thing before transformers 5.20

    def crop(self, tokens_to_remove: int) -> None:
        raise RuntimeError("this cache is rewound by setting its position")


def allocated_bytes(cache: PositionCache) -> int:
    """Memory held by the cache."""
    return sum(t.numel() * t.element_size() for pair in cache.contents() for t in pair)
