"""Run n tokens through the target at the cache's write position, whole or under a mask.

Knows nothing of drafts, masks or acceptance: a mask is in force when the caller put it there.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skipopt.models.target import Target
from skipopt.runtime.cache import PositionCache


class Engine:
    """One model and one KV cache.

    Args:
        target: the model.
        capacity: most tokens that will ever be held, drafts included.
    """

    def __init__(self, target: Target, capacity: int) -> None:
        self.target = target
        self.cache = PositionCache(target.depth, capacity)
        self._model = target.model
        self._device = target.device
        self._positions = torch.arange(capacity, device=self._device)[None]
        self._last_only = _last_only_option(target.model)

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self.cache.position

    def rewind(self, position: int) -> None:
        """Forget everything from `position` on."""
        self.cache.position = position

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> None:
        """Put prompt tokens into the cache; their logits are not computed where avoidable."""
        if tokens:
            self._forward(tokens, self._last_only)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits after each of n tokens, which are then in the cache.  # (n, V)"""
        return self._forward(tokens, {})

    def _forward(self, tokens: Sequence[int], options: dict[str, Any]) -> Tensor:
        start, count = self.cache.position, len(tokens)
        self.cache.room_for(count)
        with self.target.kernels.patch:
            output = self._model(
                input_ids=torch.tensor([tokens], device=self._device),
                past_key_values=self.cache,
                position_ids=self._positions[:, start : start + count],
                use_cache=True,
                return_dict=True,
                **options,
            )
        self.cache.position = start + count
        logits: Tensor = output.logits[0]
        return logits


def _last_only_option(model: Any) -> dict[str, Any]:
    parameters = inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
