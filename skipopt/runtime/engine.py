"""Run n tokens through the target at the cache's write position, whole or under a mask.

Knows nothing of drafts or acceptance, or of which mask is good; a tree is rows with positions and
what they see.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from skipopt.levers import NO_LEVERS, Levers
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.patching import Patch
from skipopt.runtime.cache import PositionCache
from skipopt.runtime.cheapening import coarser_weights
from skipopt.runtime.visibility import mask_form, takes_plain_mask
from skipopt.skipping import skipping


class Engine:
    """One model and one KV cache.

    Args:
        target: the model.
        capacity: most tokens that will ever be held, drafts included.

    Attributes:
        keeps_hidden: remember what the output projection is given.
        hidden: that of the latest step, where it is kept.  # (n, d)
    """

    def __init__(self, target: Target, capacity: int) -> None:
        self.target = target
        self.cache = PositionCache(target.depth, capacity)
        self.keeps_hidden = False
        self.hidden: Tensor | None = None
        self._model = target.model
        self._device = target.device
        self._form = mask_form(target.model)
        self._slots = torch.arange(capacity, device=self._device)
        # Where each cached token stands in its text: a tree's are not where they are stored.
        self._places = self._slots.clone()
        self._last_only = _last_only_option(target.model)
        self._own_mask = takes_plain_mask(target.model)
        self._ways: dict[tuple[SkipMask, int | None], tuple[Patch, Patch]] = {}
        self._weights: Any = nullcontext()  # what a forward reads in place of the model's own

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self.cache.position

    def rewind(self, position: int) -> None:
        """Forget everything from `position` on."""
        self.cache.position = position

    @contextmanager
    def under(self, mask: SkipMask, levers: Levers = NO_LEVERS) -> Iterator[None]:
        """Inside, steps run without the masked sublayers and with these levers pulled.

        A window is for steps of one token. `cheapening.available` tells which levers there are.

        Raises:
            MaskError: the mask is for a model of another depth.
        """
        way = mask, levers.bits
        if way not in self._ways:
            coarser = coarser_weights(self.target, mask, levers.bits)
            self._ways[way] = skipping(self.target.layers, mask), coarser
        thinner, weights = self._ways[way]
        self._weights, self.cache.window = weights, levers.window
        try:
            with thinner:
                yield
        finally:
            self._weights, self.cache.window = nullcontext(), None

    @torch.inference_mode()
    def keep(self, start: int, kept: Sequence[int]) -> None:
        """Of what was written behind `start`, keep these entries, in this order; forget the rest.

        Args:
            kept: ascending offsets from `start`.
        """
        if any(place != i for i, place in enumerate(kept)):
            self.cache.move(start, [start + place for place in kept])
        self.cache.position = start + len(kept)
        self._places[start : self.cache.position] = self._slots[start : self.cache.position]

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> None:
        """Put prompt tokens into the cache; their logits are not computed where avoidable."""
        if tokens:
            ids = torch.tensor(tokens, device=self._device)
            self._forward(ids, self._in_a_row(len(tokens)), None, self._last_only)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits after each of n tokens in a row, which are then in the cache.  # (n, V)"""
        count, start = len(tokens), self.cache.position
        assert count == 1 or self.cache.window is None
        mask = self._causal_mask(start, count) if self._own_mask and count > 1 and start else None
        ids = torch.tensor(tokens, device=self._device)
        return self._forward(ids, self._in_a_row(count), mask, {})

    @torch.inference_mode()
    def step_tree(
        self, inputs: Tensor | Sequence[int], depths: Sequence[int], sees: Tensor
    ) -> Tensor:
        """Logits after each of n rows of a tree, which are then in the cache.  # (n, V)

        Args:
            inputs: token ids (n,), or embeddings as they enter the decoder (n, d).
            depths: each row's distance from the row that first went in after the common context,
                which has depth 0.
            sees: which of the k earlier rows of the tree and of these n each row attends to; the
                common context before them is always seen.  # (n, k + n) bool
        """
        count, start = len(depths), self.cache.position
        base = start - (sees.shape[1] - count)
        inputs = torch.as_tensor(inputs, device=self._device)
        deepest = self.target.context_limit - 1
        places = torch.tensor(depths, device=self._device).add_(base).clamp_(max=deepest)
        self.cache.room_for(count)
        self._places[start : start + count] = places
        everything = torch.ones(count, start + count, dtype=torch.bool, device=self._device)
        everything[:, base:] = sees
        distance = places[:, None] - self._places[: start + count]
        mask = self._form.build(everything, distance, self._model.dtype)
        return self._forward(inputs, places, mask, {})

    @torch.inference_mode()
    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Embeddings as they enter the decoder.  # (n, d)"""
        ids = torch.tensor(tokens, device=self._device)
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        return embedded

    def _in_a_row(self, count: int) -> Tensor:
        """Places of the next `count` tokens where they stand as they are stored."""
        self.cache.room_for(count)
        here = slice(self.cache.position, self.cache.position + count)
        if self._form.window is not None:
            self._places[here] = self._slots[here]
        return self._slots[here]

    def _forward(
        self, inputs: Tensor, places: Tensor, mask: Any, options: dict[str, Any]
    ) -> Tensor:
        what = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        if mask is not None:
            options = {**options, "attention_mask": mask}
        # Inside the kernels' patch, which would put the model's own weights back.
        with self.target.kernels.patch, self._weights, self._recording():
            output = self._model(
                **{what: inputs[None]},
                past_key_values=self.cache,
                position_ids=places[None],
                use_cache=True,
                return_dict=True,
                **options,
            )
        self.cache.position += len(inputs)
        logits: Tensor = output.logits[0]
        return logits

    def _recording(self) -> Any:
        """Remembers what the output projection is given during one forward."""
        if not self.keeps_hidden:
            return nullcontext()

        def remember(module: Any, inputs: tuple[Tensor, ...]) -> None:
            self.hidden = inputs[0][0]

        return self._model.get_output_embeddings().register_forward_pre_hook(remember)

    def _causal_mask(self, start: int, count: int) -> Tensor:
        """Additive, (1, 1, n, start + n): built once a step, not once more in every layer."""
        mask = torch.zeros(count, start + count, dtype=self._model.dtype, device=self._device)
        lowest = torch.finfo(mask.dtype).min
        mask[:, start:] = torch.full_like(mask[:, start:], lowest).triu_(1)
        return mask[None, None]


def _last_only_option(model: Any) -> dict[str, Any]:
    parameters = inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
