"""Run n tokens through the target at the cache's write position, whole or under a mask.

Knows nothing of drafts, skip masks or acceptance: a skip mask is in force when the caller put it
there, and a tree is rows with positions and what they see.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.models.patch import Patch
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import (
    SINKS,
    AttentionMaskFormat,
    attention_mask_format,
    causal,
    uses_causal_sdpa,
)
from skipopt.runtime.draft_mode import quantized_weights
from skipopt.runtime.kv_cache import PositionCache
from skipopt.runtime.model_runner import ModelRunner, StepOutputs
from skipopt.runtime.step_cache import StepCache, StepKey, bucket_capacity, bucket_rows


class Engine:
    """One model and one KV cache.

    Steps of few rows are captured and replayed where the target's runtime is `captured`; they are
    shared with later engines of the same target. What is patched on the model by `skipping` is in
    force in either case; other changes of the model's modules are not looked for.

    Args:
        target: the model.
        capacity: most tokens that will ever be held, drafts included.
        captured: replay captured steps where there can be any. Not for a cache whose contents
            outlive the engine.

    Attributes:
        keeps_hidden: remember what the output projection is given.
        hidden: that of the latest step, where it is kept.  # (n, d)
    """

    def __init__(self, target: Target, capacity: int, captured: bool = True) -> None:
        self.target = target
        self.keeps_hidden = False
        self.hidden: Tensor | None = None
        self._guessed: tuple[Tensor, Tensor] | None = None
        self._model = target.model
        self._device = target.device
        self._form = attention_mask_format(target.model)
        self._modules = ModelRunner(target)
        self._ways: dict[tuple[SkipMask, int | None], tuple[Patch, Patch]] = {}
        self._levers = UNCHANGED
        self._weights: Patch | None = None  # read in place of the model's own
        self._captured = _borrow(self, self._form, capacity) if captured else None
        steps = self._captured
        self.cache = steps.cache if steps else PositionCache(target.depth, capacity)
        self._slots = torch.arange(self.cache.num_slots, device=self._device)
        # Where each cached token stands in its text: a tree's are not where they are stored.
        self._places = steps.places if steps else self._slots.clone()
        self._last_only = _last_only_option(target.model)
        self._own_mask = uses_causal_sdpa(target.model)

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self.cache.position

    def rewind(self, position: int) -> None:
        """Forget everything from `position` on."""
        self.cache.position = position

    @contextmanager
    def under(self, mask: SkipMask, draft_config: DraftConfig = UNCHANGED) -> Iterator[None]:
        """Inside, steps run without the masked sublayers and with these levers pulled.

        A window is for steps of one token. `cheapening.available` tells which levers there are.

        Raises:
            MaskError: the mask is for a model of another depth.
        """
        way = mask, draft_config.weight_bits
        if way not in self._ways:
            coarser = quantized_weights(self.target, mask, draft_config.weight_bits)
            self._ways[way] = skipping(self.target, mask), coarser
        thinner, weights = self._ways[way]
        self._levers, self._weights, self.cache.window = (
            draft_config,
            weights,
            draft_config.attention_window,
        )
        try:
            with thinner:
                yield
        finally:
            self._levers, self._weights, self.cache.window = UNCHANGED, None, None

    @torch.inference_mode()
    def keep(self, start: int, kept: Sequence[int]) -> None:
        """Of what was written behind `start`, keep these entries, in this order; forget the rest.

        Args:
            kept: ascending offsets from `start`.
        """
        if any(place != i for i, place in enumerate(kept)):
            self.cache.compact(start, [start + place for place in kept])
            end = start + len(kept)
            self._places[start:end] = self._slots[start:end]
        self.cache.position = start + len(kept)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> None:
        """Put prompt tokens into the cache; their logits are not computed where avoidable."""
        if tokens:
            ids = torch.tensor(tokens, device=self._device)
            self._forward(ids, self._in_a_row(len(tokens)), None, self._last_only)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """Logits after each of n tokens in a row, which are then in the cache.  # (n, V)"""
        ids = torch.as_tensor(tokens, device=self._device)
        return self._forward(ids, self._in_a_row(len(ids)), None, {})

    @torch.inference_mode()
    def guess(self, tokens: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Likeliest next token after each of n tokens in a row, and its probability.  # (n,) twice

        Both stay on the device: tokens may be handed on to the next step without a look at them.
        """
        ids = torch.as_tensor(tokens, device=self._device)
        self._forward(ids, self._in_a_row(len(ids)), None, {}, True)
        assert self._guessed is not None
        return self._guessed

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
        self._form.require_trees()
        count, start = len(depths), self.cache.position
        base = start - (sees.shape[1] - count)
        inputs = torch.as_tensor(inputs, device=self._device)
        deepest = self.target.context_limit - 1
        places = torch.tensor(depths, device=self._device).add_(base).clamp_(max=deepest)
        self.cache.check_room(count)
        everything = torch.ones(count, start + count, dtype=torch.bool, device=self._device)
        everything[:, base:] = sees
        self._places[start : start + count] = places
        return self._forward(inputs, places, everything, {})

    @torch.inference_mode()
    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Embeddings as they enter the decoder.  # (n, d)"""
        ids = torch.tensor(tokens, device=self._device)
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        return embedded

    def _in_a_row(self, count: int) -> Tensor:
        """Places of the next `count` tokens where they stand as they are stored."""
        self.cache.check_room(count)
        here = slice(self.cache.position, self.cache.position + count)
        if self._form.reads_positions:
            self._places[here] = self._slots[here]
        return self._slots[here]

    def _forward(
        self,
        inputs: Tensor,
        places: Tensor,
        sees: Tensor | None,
        options: dict[str, Any],
        guess: bool = False,
    ) -> Tensor:
        """Every forward: a captured step where there is one, else the model's own modules."""
        count = len(inputs)
        wanted = StepOutputs(self.keeps_hidden, guess)
        outputs = None if options else self._replay(inputs, places, sees, wanted)
        if outputs is None:
            mask = self._mask(places, sees)
            outputs = self._modules(
                inputs, places, self.cache, mask, wanted, self._weights, options
            )
        self.cache.position += count
        logits, *more = (each[:count] for each in outputs)
        self.hidden = more.pop(0) if self.keeps_hidden else None
        self._guessed = (more[0], more[1]) if guess else None
        return logits

    def _mask(self, places: Tensor, sees: Tensor | None) -> Any:
        """As the model takes it; None where the model makes its own."""
        count, start = len(places), self.cache.position
        assert count == 1 or self.cache.window is None
        if sees is None:
            if not (self._own_mask and count > 1 and start):
                return None
            # Built once a step; the model would build it again in every layer.
            sees = causal(start, count, self._device)
        return self._form.build(sees, places, self._places[: start + count], self._model.dtype)

    def _replay(
        self, inputs: Tensor, places: Tensor, sees: Tensor | None, wanted: StepOutputs
    ) -> Sequence[Tensor] | None:
        """By a captured step; None where there is none for these rows.

        Rows are filled up to a number that is captured. The filling stands behind the others, is
        seen by none of them, and what it leaves in the cache is never read.
        """
        count, changes = len(inputs), self.target.runtime.active_patch_keys()
        rows = bucket_rows(count)
        if self._captured is None or rows is None or changes is None:
            return None
        start = self.cache.position
        reads = min(bucket_capacity(start + rows), self.cache.num_slots)
        window = self._levers.attention_window
        if window is not None and start + rows < SINKS + window:
            window = None  # everything is in it
        step = StepKey(
            changes,
            rows,
            reads if window is None else 0,
            sees is not None,
            inputs.is_floating_point(),
            wanted,
            self._levers.weight_bits,
            window,
        )
        if rows > count:
            inputs = _filled(inputs, rows)
            places = _filled(places, rows)
        if sees is not None:
            wide = torch.zeros(rows, reads, dtype=torch.bool, device=self._device)
            wide[:count, : start + count] = sees
            wide[count:, start] = True  # a row that sees nothing has no attention
            sees = wide
        return self._captured.run(step, self._weights, inputs, places, sees)


def _borrow(engine: Engine, form: AttentionMaskFormat, capacity: int) -> StepCache | None:
    """Captured steps for the life of the engine; None where nothing can be captured."""
    target = engine.target
    pool = target.runtime.step_caches
    if pool.unsupported_reason is None and form.unsupported_reason is not None:
        target.runtime.disable_capture(form.unsupported_reason)
    if pool.unsupported_reason is not None:
        return None
    steps = pool.acquire(capacity) or StepCache(target, form, capacity)
    steps.cache.position, steps.cache.capacity = 0, capacity
    weakref.finalize(engine, pool.release, steps).atexit = False
    return steps


def _filled(rows: Tensor, count: int) -> Tensor:
    """With the last row again and again, up to `count`."""
    filling = rows[-1:].expand(count - len(rows), *rows.shape[1:])
    return torch.cat([rows, filling])


def _last_only_option(model: Any) -> dict[str, Any]:
    parameters = inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
