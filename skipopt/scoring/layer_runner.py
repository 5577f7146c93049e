"""Runs single layers of the target on the stacked hidden states of several candidates.

The caller patches what a layer is to skip.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.errors import NotScoredError
from skipopt.models.patch import Forward, Patch
from skipopt.models.sublayers import DecoderLayer
from skipopt.models.target import Target
from skipopt.models.text_states import cache_arguments
from skipopt.scoring.candidate_state import CandidateState, SharedRows
from skipopt.scoring.stacked_batch import StackedBatch, attention_mask


def not_scored(target: Target, reason: str) -> NotScoredError:
    """The error that says why masks of the model cannot be scored."""
    return NotScoredError(
        f"masks of {target.architecture} cannot be scored: {reason}",
        hint="use a mask of your own (Profile.by_hand), or drafts without one: quant=int8",
    )


class LayerRunner:
    """Calls layers with the arguments they need when `width` candidates are stacked.

    The arguments (positions, rotary embeddings, mask, cache) depend on the texts alone. They are
    recorded by hooks in a forward in which every layer returns its input, so no layer is computed.

    Layers that read the keys of earlier ones find them in a mapping that all layers are given. It
    is filled before each layer with what these candidates have there.

    Attributes:
        embedded: input of the first layer.  # (…, S, width·M·J, H)
    """

    def __init__(self, target: Target, batch: StackedBatch, width: int) -> None:
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._record_calls(target, batch, width)
        args, kwargs = self._calls[0]
        self.embedded: Tensor = args[0] if args else kwargs["hidden_states"]
        self._cache = batch.cache
        self._shared: MutableMapping[Any, tuple[Tensor, ...]] = {}
        if any(layer.feeds_keys for layer in target.layers):
            mappings = (x for x in (*args, *kwargs.values()) if isinstance(x, MutableMapping))
            # Nothing was computed yet, so the mapping that is to be filled is empty.
            self._shared = next(each for each in mappings if not each)

    def run(self, layer: DecoderLayer, states: Sequence[CandidateState]) -> list[CandidateState]:
        """The layer's output for `width` candidates."""
        self._restore(states)
        before = dict(self._shared)
        hidden = self._output(layer, torch.cat([state.hidden for state in states], -2))
        outputs = hidden.chunk(len(states), -2)
        # What no layer reads is not computed where the layer is skipped.
        changed = {k: v for k, v in self._shared.items() if before.get(k) is not v}
        written = changed if layer.feeds_keys else {}
        added = [
            {name: self._own(layer, parts, states, i) for name, parts in written.items()}
            for i in range(len(states))
        ]
        found = zip(outputs, states, added, strict=True)
        return [CandidateState(out, {**state.shared, **new}) for out, state, new in found]

    def _output(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        args, kwargs = self._calls[layer.index]
        if args:
            output = layer.block.module(hidden, *args[1:], **kwargs)
        else:
            output = layer.block.module(**{**kwargs, "hidden_states": hidden})
        result: Tensor = output[0] if isinstance(output, tuple | list) else output
        return result

    def _restore(self, states: Sequence[CandidateState]) -> None:
        """Put what earlier layers computed for these candidates into the mapping."""
        self._shared.clear()
        for name, (layer, _) in states[0].shared.items():
            parts = zip(*(state.shared[name].parts for state in states), strict=True)
            keys, values = (torch.cat(each, -2) for each in parts)
            self._shared[name] = self._cache.update(keys, values, layer)

    def _own(
        self,
        layer: DecoderLayer,
        parts: Sequence[Tensor],
        states: Sequence[CandidateState],
        candidate: int,
    ) -> SharedRows:
        """A candidate's rows of what a layer wrote behind the context, which is overwritten."""
        context, count = self._cache.get_seq_length(), states[0].hidden.shape[-2]
        start = context + candidate * count
        rows = (each[..., start : start + count, :].clone() for each in parts)
        return SharedRows(layer.index, tuple(rows))

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
            reason = f"it does not run over several drafts at once: {reason}"
            raise not_scored(target, reason) from error
        finally:
            for handle in handles:
                handle.remove()

    def _recorder(self, index: int) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls[index] = (args, kwargs)

        return record
