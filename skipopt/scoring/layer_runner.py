"""Runs single layers of the target on the stacked hidden states of several candidates.

The caller patches what a layer is to skip.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from skipopt.models.patch import Forward, Patch
from skipopt.models.sublayers import DecoderLayer
from skipopt.models.target import Target
from skipopt.runtime.kv_cache import DraftCache
from skipopt.scoring.stacked_batch import StackedBatch, attention_mask


class LayerRunner:
    """Calls layers with the arguments they need when `width` candidates are stacked.

    The arguments (positions, rotary embeddings, mask, cache) depend on the texts alone. They are
    recorded by hooks in one forward of the full model.

    Attributes:
        embedded: input of the first layer.  # (S, width·M·J, H)
    """

    def __init__(self, target: Target, batch: StackedBatch, width: int) -> None:
        self._target = target
        queries = batch.queries.repeat(1, width)
        self._inputs = {
            "input_ids": queries,
            "position_ids": batch.positions.repeat(1, width),
            "attention_mask": attention_mask(target, batch, width),
            "past_key_values": DraftCache(batch.context, queries.shape[1]),
            "use_cache": True,
        }
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._record_calls()
        args, kwargs = self._calls[0]
        self.embedded: Tensor = args[0] if args else kwargs["hidden_states"]

    def run(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        """The layer's output for stacked hidden states.  # (S, width·M·J, H) both"""
        args, kwargs = self._calls[layer.index]
        if args:
            output = layer.block.module(hidden, *args[1:], **kwargs)
        else:
            output = layer.block.module(**{**kwargs, "hidden_states": hidden})
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits for the last layer's output.  # (S, width·M·J, H) -> (S, width·M·J, V)

        The full model is run with every layer patched to return `hidden`, so that its own final
        norm, head and logit processing are applied.
        """
        layers = self._target.layers
        changes: list[tuple[Any, Forward]] = [
            (layer.block.module, lambda *a, **k: layers[0].block.wrap(hidden)) for layer in layers
        ]
        with Patch(changes):
            logits: Tensor = self._target.model(**self._inputs).logits
        return logits

    def _record_calls(self) -> None:
        handles = [
            layer.block.module.register_forward_pre_hook(
                self._recorder(layer.index), with_kwargs=True
            )
            for layer in self._target.layers
        ]
        try:
            self._target.model(**self._inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _recorder(self, index: int) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls[index] = (args, kwargs)

        return record
