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
        self._own_mask = _takes_plain_mask(target.model)

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
        if self._own_mask and count > 1 and start > 0:
            options = {**options, "attention_mask": self._causal_mask(start, count)}
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

    def _causal_mask(self, start: int, count: int) -> Tensor:
        """Additive, (1, 1, n, start + n): built once a step, not once more in every layer."""
        mask = torch.zeros(count, start + count, dtype=self._model.dtype, device=self._device)
        lowest = torch.finfo(mask.dtype).min
        mask[:, start:] = torch.full_like(mask[:, start:], lowest).triu_(1)
        return mask[None, None]


def _takes_plain_mask(model: Any) -> bool:
    """Does one causal mask serve every layer? Not with windows, ALiBi, or other attention code."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    plain = kinds <= {"full_attention"} and not getattr(config, "alibi", False)
    windowless = getattr(config, "sliding_window", None) is None
    return plain and windowless and config._attn_implementation == "sdpa"


def _last_only_option(model: Any) -> dict[str, Any]:
    parameters = inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
