"""Runs single layers of the target on the stacked hidden states of several candidates.

The caller patches what a layer is to skip.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from skipopt.errors import ModelError
from skipopt.models.patch import Forward, Patch
from skipopt.models.sublayers import DecoderLayer
from skipopt.models.target import Target
from skipopt.models.text_states import cache_arguments
from skipopt.scoring.stacked_batch import StackedBatch, attention_mask


class LayerRunner:
    """Calls layers with the arguments they need when `width` candidates are stacked.

    The arguments (positions, rotary embeddings, mask, cache) depend on the texts alone. They are
    recorded by hooks in a forward in which every layer returns its input, so no layer is computed.

    Attributes:
        embedded: input of the first layer.  # (S, width·M·J, H)
    """

    def __init__(self, target: Target, batch: StackedBatch, width: int) -> None:
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._record_calls(target, batch, width)
        args, kwargs = self._calls[0]
        self.embedded: Tensor = args[0] if args else kwargs["hidden_states"]

    def run(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        """The layer's output for stacked hidden states.  # (S, width·M·J, H) both"""
        args, kwargs = self._calls[layer.index]
        if args:
            output = layer.block.module(hidden, *args[1:], **kwargs)
        else:
            output = layer.block.module(**{**kwargs, "hidden_states": hidden})
        result: Tensor = output[0] if isinstance(output, tuple | list) else output
        return result

    def _record_calls(self, target: Target, batch: StackedBatch, width: int) -> None:
        blocks = [layer.block for layer in target.layers]
        identity: list[tuple[nn.Module, Forward]] = [
            (each.module, each.identity) for each in blocks
        ]
        handles = [
            block.module.register_forward_pre_hook(self._recorder(index), with_kwargs=True)
            for index, block in enumerate(blocks)
        ]
        try:
            with Patch(identity):
                # The base model has no output projection.
                target.model.base_model(
                    input_ids=batch.queries.repeat(1, width),
                    attention_mask=attention_mask(target, batch, width),
                    use_cache=True,
                    **cache_arguments(target.model, batch.cache, batch.positions.repeat(1, width)),
                )
        except Exception as error:  # whatever a model's own code raises
            reason = " ".join(str(error).split())[:160]
            raise ModelError(
                f"masks of {target.architecture} cannot be scored: it does not run over several "
                f"drafts at once: {reason}",
                hint="use a mask of your own (Profile.by_hand), or drafts without one: quant=int8",
            ) from error
        finally:
            for handle in handles:
                handle.remove()

    def _recorder(self, index: int) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls[index] = (args, kwargs)

        return record
