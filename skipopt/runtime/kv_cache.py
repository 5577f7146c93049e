"""A KV cache that is rewound by its write position.

`PositionCache` is preallocated and shared by draft and verification. Rewinding sets its position;
nothing is cloned, cropped or kept twice. The position does not come from any layer's length, so a
draft may skip every attention, that of layer 0 included. Layers with a sliding window store all
positions too; the window is in the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionLayer

from skipopt.errors import PromptError
from skipopt.models.text_states import PLAIN, CachedParts
from skipopt.one_thread import one_thread
from skipopt.runtime.attention_mask import SINKS

# (B, heads, slots, D) each; D may differ between the two. Then the keys of an index, if there is
# one: (B, slots, D).
KeysAndValues = tuple[Tensor, ...]


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
    """Keys and values of up to `capacity` tokens, batch 1, and states of recurrent layers.

    The states are those after the last token that was read; `StateCheckpoint` sets them back.

    Args:
        num_slots: tokens to allocate memory for, at least `capacity` (the default).
        parts: what each layer keeps; by default keys and values.

    Attributes:
        position: tokens held; the next forward writes from here on. Set it back to rewind.
        capacity: most tokens that may be held.
        written: positions below this one are not written again.
        window: the next step, of one token, sees the first `SINKS` positions and this many of the
            latest, its own included; None for all.
    """

    def __init__(
        self,
        depth: int,
        capacity: int,
        num_slots: int | None = None,
        parts: Sequence[CachedParts] = (),
    ) -> None:
        self.position = self.written = 0
        self.capacity = capacity
        self.num_slots = capacity if num_slots is None else num_slots
        self.window: int | None = None
        self.fixed_slots: CacheSlots | None = None
        super().__init__(layers=[_layer(self, each) for each in parts or [PLAIN] * depth])

    @property
    def state_layers(self) -> dict[int, StateLayer]:
        """The layers that keep states, by index."""
        layers = enumerate(self.layers)
        return {i: layer for i, layer in layers if isinstance(layer, StateLayer)}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.position

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        if self.fixed_slots is not None:
            return self.fixed_slots.context_len, 0
        return self.visible_len(self.position + query_length), 0

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
        """Each layer's keys and values over all slots; layers that have none are left out."""
        stored = (layer.stored() for layer in self._position_layers())
        return [tuple(t for t in each if t is not None) for each in stored if each[0] is not None]

    def _position_layers(self) -> Iterator[PositionLayer]:
        return (layer for layer in self.layers if isinstance(layer, PositionLayer))

    def _by_position(self) -> Iterator[Tensor]:
        """Everything that lies by position, the positions in the dimension before the last."""
        for layer in self._position_layers():
            yield from (each for each in layer.stored() if each is not None)

    def visible_len(self, end: int) -> int:
        """How many of the first `end` positions a step sees."""
        return end if self.window is None else min(end, SINKS + self.window)

    @one_thread()
    def compact(self, start: int, kept: Sequence[int]) -> None:
        """Copy the entries at `kept` to `start` and the slots after it; the position stays."""
        for stored in self._by_position():
            sources = torch.tensor(kept, device=stored.device)
            # index_select copies first, since sources and destinations may overlap.
            stored[..., start : start + len(kept), :] = stored.index_select(-2, sources)

    def clear(self, start: int, end: int | None = None) -> None:
        """Set the entries from `start` to `end`, or all of them from `start` on, to 0."""
        for stored in self._by_position():
            stored[..., start:end, :] = 0

    def check_room(self, count: int) -> None:
        """Raise PromptError if `count` more tokens do not fit."""
        if self.position + count > self.capacity:
            raise PromptError(
                f"{self.position + count} tokens do not fit in a cache of {self.capacity}",
                hint="shorten the prompt or lower --max-new-tokens",
            )

    @property
    def allocated_bytes(self) -> int:
        """Memory of everything that lies by position."""
        return sum(t.numel() * t.element_size() for t in self._by_position())


class CacheLayer(CacheLayerMixin):
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


class EmptyLayer(CacheLayer):
    """Of a decoder layer that keeps nothing of a text."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        raise RuntimeError("this layer keeps no keys and values")

    def get_seq_length(self) -> int:
        return 0


class PositionLayer(CacheLayer):
    """Keys and values, by position."""

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
    ) -> tuple[Tensor, Tensor]:
        """Write (B, H, n, D) at the position; return what the rows see of everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if (slots := self.owner.fixed_slots) is not None:
            self.keys.index_copy_(2, slots.slot_mapping, key_states)
            self.values.index_copy_(2, slots.slot_mapping, value_states)
            return slots.gather(self.keys), slots.gather(self.values)
        self._write(self.keys, key_states)
        self._write(self.values, value_states)
        end = self.owner.position + key_states.shape[-2]
        return self._visible(self.keys, end), self._visible(self.values, end)

    def _write(self, stored: Tensor, rows: Tensor) -> None:
        """Write (…, n, D) at the position, but for rows that are there already."""
        start, end = self.owner.position, self.owner.position + rows.shape[-2]
        first = max(start, self.owner.written)
        stored[..., first:end, :] = rows[..., first - start :, :]

    def stored(self) -> tuple[Tensor | None, ...]:
        """What lies by position, the positions in the dimension before the last."""
        return self.keys, self.values

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


class StateLayer(LinearAttentionLayer):
    """States of recurrences and convolutions.

    Attributes:
        on_inputs: called when inputs of a convolution were added to a state, with the number of
            the state, its inputs followed by these, and how many these are.  # (B, d, K + n)
    """

    on_inputs: Callable[[int, Tensor, int], None] | None = None

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, *args: Any, **kwargs: Any
    ) -> Tensor:
        every: Tensor = super().update_conv_state(conv_states, state_idx, *args, **kwargs)
        if self.on_inputs is not None:
            self.on_inputs(state_idx, every, conv_states.shape[-1])
        return every


class _IndexedLayer(PositionLayer):
    """Also the keys of an index, which chooses what attention sees."""

    def __init__(self, owner: PositionCache) -> None:
        super().__init__(owner)
        self.index_keys: Tensor | None = None

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        """Write (B, n, D) at the position; return those of everything so far."""
        if self.index_keys is None:
            self.index_keys = self._allocate(indexer_key_states)
        if (slots := self.owner.fixed_slots) is not None:
            self.index_keys.index_copy_(1, slots.slot_mapping, indexer_key_states)
            return slots.gather(self.index_keys[:, None])[:, 0]
        self._write(self.index_keys, indexer_key_states)
        return self.index_keys[:, : self.owner.position + indexer_key_states.shape[1]]

    def stored(self) -> tuple[Tensor | None, ...]:
        return *super().stored(), self.index_keys


class _PositionAndStateLayer(StateLayer, PositionLayer):  # type: ignore[misc,override]
    """Attention and a recurrence side by side."""

    is_compileable = False

    def __init__(self, owner: PositionCache, number_of_states: int) -> None:
        PositionLayer.__init__(self, owner)
        LinearAttentionLayer.__init__(self, number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """That of the states is called with names only, that of keys and values with none."""
        kind = PositionLayer if args else LinearAttentionLayer
        kind.lazy_initialization(self, *args, **kwargs)

    def get_max_length(self) -> int:
        return PositionLayer.get_max_length(self)


def _layer(owner: PositionCache, parts: CachedParts) -> Any:
    if parts.states:
        if parts.keys:
            return _PositionAndStateLayer(owner, parts.states)
        return StateLayer(parts.states)
    if not parts.keys:
        return EmptyLayer()
    return _IndexedLayer(owner) if parts.index else PositionLayer(owner)
