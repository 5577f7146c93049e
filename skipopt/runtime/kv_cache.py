"""One preallocated KV cache with an explicit write position, shared by draft and verification.

Rewinding is moving the position: nothing is cloned, cropped or kept twice. The position does
not come from any layer's length, so a draft may skip every attention, layer 0's included.
Sliding-window layers store all positions too; their window is in the mask, which is by index.
Knows nothing of drafts or of acceptance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from skipopt.errors import PromptError

# First positions that a window does not hide: attention rests on them (arXiv 2309.17453).
SINKS = 4


class CacheSlots(NamedTuple):
    """Where a captured step writes and reads.

    Attributes:
        slots: that its rows are written to.  # (n,)
        reads: how many slots attention looks at.
        shown: which these are; None: the first.  # (reads,)
    """

    slots: Tensor
    reads: int
    shown: Tensor | None = None

    def seen(self, held: Tensor) -> Tensor:
        """# (1, heads, slots, D) -> (1, heads, reads, D)"""
        return held[:, :, : self.reads] if self.shown is None else held.index_select(2, self.shown)


class PositionCache(Cache):
    """Keys and values of up to `capacity` tokens, batch 1.

    Args:
        slots: tokens that memory is taken for, at least `capacity`.

    Attributes:
        position: tokens held; the next forward writes from here on. Set it back to rewind.
        capacity: most tokens that may be held.
        window: a step of one token is shown the first `SINKS` positions and so many of the
            latest, its own included; None = all.
    """

    def __init__(self, depth: int, capacity: int, slots: int | None = None) -> None:
        self.position = 0
        self.capacity = capacity
        self.slots = capacity if slots is None else slots
        self.window: int | None = None
        self.aim: CacheSlots | None = None
        super().__init__(layers=[_PositionLayer(self) for _ in range(depth)])

    @contextmanager
    def writing(self, aim: CacheSlots) -> Iterator[None]:
        """Within it, forwards write and read there, wherever the position is.

        Nothing then depends on numbers that the host knows, so a forward can be captured.
        """
        self.aim = aim
        try:
            yield
        finally:
            self.aim = None

    def contents(self) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values over all slots.  # (1, heads, slots, D)"""
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
        slots = self.owner.slots
        self.dtype, self.device = key_states.dtype, key_states.device
        # Keys and values differ in width in some models (DeepSeek), so each has its own shape.
        self.keys = key_states.new_zeros(*key_states.shape[:-2], slots, key_states.shape[-1])
        self.values = value_states.new_zeros(
            *value_states.shape[:-2], slots, value_states.shape[-1]
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (B, H, n, D) at the position; return what is seen of everything up to there."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if self.owner.aim is not None:
            aim = self.owner.aim
            self.keys.index_copy_(2, aim.slots, key_states)
            self.values.index_copy_(2, aim.slots, value_states)
            return aim.seen(self.keys), aim.seen(self.values)
        start = self.owner.position
        end = start + key_states.shape[-2]
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self._seen(self.keys, end), self._seen(self.values, end)

    def _seen(self, held: Tensor, end: int) -> Tensor:
        window = self.owner.window
        if window is None or end <= SINKS + window:
            return held[:, :, :end]
        return torch.cat([held[:, :, :SINKS], held[:, :, end - window : end]], -2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        if self.owner.aim is not None:
            return self.owner.aim.reads, 0
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
