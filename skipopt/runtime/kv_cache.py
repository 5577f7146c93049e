"""KV caches: one that is rewound by its write position, and two over texts that are given.

`PositionCache` is preallocated and shared by draft and verification. Rewinding sets its position;
nothing is cloned, cropped or kept twice. The position does not come from any layer's length, so a
draft may skip every attention, that of layer 0 included. Layers with a sliding window store all
positions too; the window is in the mask.

`ContextCache` and `DraftCache` hold the keys and values of whole texts, for rows that run behind
any of their positions (in training and in scoring).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from skipopt.errors import PromptError
from skipopt.runtime.attention_mask import SINKS

KeysAndValues = tuple[Tensor, Tensor]  # (B, heads, slots, D) each; D may differ between the two


class CacheSlots(NamedTuple):
    """Where a captured step writes and reads.

    Attributes:
        slot_mapping: the slot that each row is written to.  # (n,)
        context_len: number of slots that attention reads.
        visible: which slots these are; None for the first ones.  # (context_len,)
    """

    slot_mapping: Tensor
    context_len: int
    visible: Tensor | None = None

    def gather(self, stored: Tensor) -> Tensor:
        """What attention reads of a layer's slots.

        # (1, heads, slots, D) -> (1, heads, context_len, D)
        """
        if self.visible is None:
            return stored[:, :, : self.context_len]
        return stored.index_select(2, self.visible)


class PositionCache(Cache):
    """Keys and values of up to `capacity` tokens, batch 1.

    Args:
        num_slots: tokens to allocate memory for, at least `capacity` (the default).

    Attributes:
        position: tokens held; the next forward writes from here on. Set it back to rewind.
        capacity: most tokens that may be held.
        window: the next step, of one token, sees the first `SINKS` positions and this many of the
            latest, its own included; None for all.
    """

    def __init__(self, depth: int, capacity: int, num_slots: int | None = None) -> None:
        self.position = 0
        self.capacity = capacity
        self.num_slots = capacity if num_slots is None else num_slots
        self.window: int | None = None
        self.fixed_slots: CacheSlots | None = None
        super().__init__(layers=[_PositionLayer(self) for _ in range(depth)])

    @contextmanager
    def at_slots(self, slots: CacheSlots) -> Iterator[None]:
        """Inside, forwards write and read at these slots, whatever the position is.

        No number that the host knows is then used, so a forward can be captured.
        """
        self.fixed_slots = slots
        try:
            yield
        finally:
            self.fixed_slots = None

    def contents(self) -> list[KeysAndValues]:
        """Each layer's keys and values over all slots; layers that were never run are left out."""
        layers = (layer for layer in self.layers if isinstance(layer, _PositionLayer))
        return [(x.keys, x.values) for x in layers if x.keys is not None and x.values is not None]

    def visible_len(self, end: int) -> int:
        """How many of the first `end` positions a step sees."""
        return end if self.window is None else min(end, SINKS + self.window)

    def compact(self, start: int, kept: Sequence[int]) -> None:
        """Copy the entries at `kept` to `start` and the slots after it; the position stays."""
        for keys, values in self.contents():
            sources = torch.tensor(kept, device=keys.device)
            for stored in (keys, values):
                # index_select copies first, since sources and destinations may overlap.
                stored[:, :, start : start + len(kept)] = stored.index_select(2, sources)

    def clear(self, start: int) -> None:
        """Set the entries from `start` on to 0."""
        for keys, values in self.contents():
            keys[:, :, start:] = 0
            values[:, :, start:] = 0

    def check_room(self, count: int) -> None:
        """Raise PromptError if `count` more tokens do not fit."""
        if self.position + count > self.capacity:
            raise PromptError(
                f"{self.position + count} tokens do not fit in a cache of {self.capacity}",
                hint="shorten the prompt or lower --max-new-tokens",
            )

    @property
    def allocated_bytes(self) -> int:
        """Memory held by keys and values."""
        return sum(t.numel() * t.element_size() for pair in self.contents() for t in pair)


class _Layer(CacheLayerMixin):
    """What transformers asks of a cache layer and is the same in all of ours."""

    is_sliding = False
    is_compileable = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        return None

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        """`get_max_length`, as transformers before 5.20 calls it."""
        return self.get_max_length()


class _PositionLayer(_Layer):
    is_croppable = True

    def __init__(self, owner: PositionCache) -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        # Keys and values differ in width in some models (DeepSeek), so each has its own shape.
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, like: Tensor) -> Tensor:
        return like.new_zeros(*like.shape[:-2], self.owner.num_slots, like.shape[-1])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> KeysAndValues:
        """Write (B, H, n, D) at the position; return what the rows see of everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if (slots := self.owner.fixed_slots) is not None:
            self.keys.index_copy_(2, slots.slot_mapping, key_states)
            self.values.index_copy_(2, slots.slot_mapping, value_states)
            return slots.gather(self.keys), slots.gather(self.values)
        start = self.owner.position
        end = start + key_states.shape[-2]
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self._visible(self.keys, end), self._visible(self.values, end)

    def _visible(self, stored: Tensor, end: int) -> Tensor:
        window = self.owner.window
        if window is None or end <= SINKS + window:
            return stored[:, :, :end]
        return torch.cat([stored[:, :, :SINKS], stored[:, :, end - window : end]], -2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        if self.owner.fixed_slots is not None:
            return self.owner.fixed_slots.context_len, 0
        return self.owner.visible_len(self.owner.position + query_length), 0

    def get_seq_length(self) -> int:
        return self.owner.position

    def get_max_length(self) -> int:
        return self.owner.capacity

    def crop(self, tokens_to_remove: int) -> None:
        raise RuntimeError("this cache is rewound by setting its position")


class ContextCache(Cache):
    """Keys and values of given texts; rows see them and one another, and are not stored.

    Nothing is written in place, so gradients can flow through the rows' own keys and values.

    Args:
        context: each layer's keys and values of the texts.  # (S, heads, N, D)
    """

    def __init__(self, context: Sequence[KeysAndValues]) -> None:
        super().__init__(layers=[_ContextLayer(keys, values) for keys, values in context])


class _ContextLayer(_Layer):
    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.context_len = int(keys.shape[-2])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> KeysAndValues:
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)

    def get_seq_length(self) -> int:
        return self.context_len


class DraftCache(Cache):
    """The full model's keys and values of given texts, then slots for draft rows.

    Each forward of `n` rows overwrites the first `n` slots.

    Args:
        context: each layer's keys and values of the texts.  # (S, heads, N, D)
        rows: most draft rows of each text.
    """

    def __init__(self, context: Sequence[KeysAndValues], rows: int) -> None:
        super().__init__(layers=[_DraftLayer(keys, values, rows) for keys, values in context])
        self.rows = rows

    def of_texts(self, texts: slice) -> DraftCache:
        """The cache of some of the texts, in the same memory."""
        part = DraftCache((), self.rows)
        part.layers = [
            layer.of_texts(texts) for layer in self.layers if isinstance(layer, _DraftLayer)
        ]
        return part


class _DraftLayer(_ContextLayer):
    """Draft rows are written in place, so the large context is copied only once."""

    def __init__(self, keys: Tensor, values: Tensor, rows: int) -> None:
        super().__init__(_with_slots(keys, rows), _with_slots(values, rows))
        self.context_len = int(keys.shape[-2])

    def of_texts(self, texts: slice) -> _DraftLayer:
        assert self.keys is not None
        assert self.values is not None
        part = copy(self)
        part.keys, part.values = self.keys[texts], self.values[texts]
        return part

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> KeysAndValues:
        assert self.keys is not None
        assert self.values is not None
        end = self.context_len + key_states.shape[-2]
        self.keys[:, :, self.context_len : end] = key_states
        self.values[:, :, self.context_len : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]


def _with_slots(stored: Tensor, rows: int) -> Tensor:
    return torch.cat([stored, stored.new_zeros(*stored.shape[:-2], rows, stored.shape[-1])], -2)
