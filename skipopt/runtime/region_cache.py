"""A KV cache in some slots of another one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skipopt.runtime.kv_cache import PositionCache, PositionLayer


class RegionCache(PositionCache):
    """Some slots of another cache, with a position of their own.

    Args:
        whole: the other cache; its layers keep keys and values, or nothing.
        start: the first of the slots.
        capacity: number of slots.
    """

    def __init__(self, whole: PositionCache, start: int, capacity: int) -> None:
        super().__init__(len(whole.layers), capacity)
        self.layers = [_region(self, layer, start) for layer in whole.layers]


class _RegionLayer(PositionLayer):  # type: ignore[no-untyped-call]
    def __init__(self, owner: RegionCache, whole: PositionLayer, start: int) -> None:
        super().__init__(owner)
        self._whole = whole
        self._slots = slice(start, start + owner.num_slots)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        if not self._whole.is_initialized:
            self._whole.lazy_initialization(key_states, value_states)
        assert self._whole.keys is not None
        assert self._whole.values is not None
        self.keys = self._whole.keys[:, :, self._slots]
        self.values = self._whole.values[:, :, self._slots]
        self.is_initialized = True


def _region(owner: RegionCache, layer: Any, start: int) -> Any:
    return _RegionLayer(owner, layer, start) if isinstance(layer, PositionLayer) else layer
