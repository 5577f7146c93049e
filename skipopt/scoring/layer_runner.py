"""Layers run one by one over the stacked hidden states of many candidates.

Knows nothing of which layer skips what: whoever runs one has patched it before.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skipopt.models.patch import Forward, Patch
from skipopt.models.sublayers import DecoderLayer
from skipopt.models.target import Target
from skipopt.runtime.kv_cache import DraftCache
from skipopt.scoring.stacked_batch import StackedBatch, attention_mask


class LayerRunner:
    """What every layer is called with when `width` candidates are stacked.

    One forward of the full model with the context keys finds it: the arguments (positions,
    rotary embeddings, mask) depend on the texts alone. Also holds the embedded queries.
    """

    def __init__(self, target: Target, batch: StackedBatch, width: int) -> None:
        self._target = target
        self._width = width
        self._queries = batch.queries.repeat(1, width)
        cache = DraftCache(batch.context, self._queries.shape[1])
        self._inputs = {
            "input_ids": self._queries,
            "position_ids": batch.positions.repeat(1, width),
            "attention_mask": attention_mask(target, batch, width),
            "past_key_values": cache,
            "use_cache": True,
        }
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._observe()
        args, kwargs = self._calls[0]
        self.embedded: Tensor = args[0] if args else kwargs["hidden_states"]

    def _observe(self) -> None:
        handles = [
            layer.whole.module.register_forward_pre_hook(self._keep(layer.index), with_kwargs=True)
            for layer in self._target.layers
        ]
        try:
            self._target.model(**self._inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, index: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls[index] = (args, kwargs)

        return hook

    def run(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        """One layer over stacked hidden states.  # (S, width·M, H)"""
        args, kwargs = self._calls[layer.index]
        if args:
            output = layer.whole.module(hidden, *args[1:], **kwargs)
        else:
            output = layer.whole.module(**{**kwargs, "hidden_states": hidden})
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own way from the last hidden state to logits: every layer hands it on."""
        layers = self._target.layers
        changes: list[tuple[Any, Forward]] = [
            (layer.whole.module, lambda *a, **k: layers[0].whole.wrap(hidden)) for layer in layers
        ]
        with Patch(changes):
            logits: Tensor = self._target.model(**self._inputs).logits
        return logits
