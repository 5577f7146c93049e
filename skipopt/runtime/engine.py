"""Runs steps of the target at the write position of a KV cache, in full or as a draft model.

A step is one forward over a few rows: tokens in a row, the nodes of a tree with their positions
and which rows each attends to, or rows of several texts with the slots that they are stored in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
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
    causal,
    uses_causal_sdpa,
    within_window,
)
from skipopt.runtime.choice import Choice
from skipopt.runtime.draft_mode import DraftWeights, draft_weights
from skipopt.runtime.engine_parts import (
    acquire_steps,
    last_logits_option,
    mask_format,
    own_cache,
    state_checkpoint,
)
from skipopt.runtime.kv_cache import CacheSlots, PositionCache
from skipopt.runtime.model_runner import LOGITS_ONLY, ModelRunner, StepOutputs
from skipopt.runtime.own_cache_checkpoint import OwnCacheCheckpoint
from skipopt.runtime.prompt_inputs import TOKENS_ONLY
from skipopt.runtime.rope_borders import RopeBorders
from skipopt.runtime.state_checkpoint import StateCheckpoint
from skipopt.runtime.step_cache import StepKey
from skipopt.runtime.step_rows import StepRows

NO_OPTIONS: Mapping[str, Any] = {}


class Engine:
    """One model and one KV cache.

    Where the target's runtime is `captured`, steps of few rows are captured and replayed; they are
    shared with later engines of the same target. Patches made by `Runtime.patch` (skip masks)
    hold in captured steps too. A model that was changed is noticed when an engine is made
    (see `Runtime.refresh`), not later.

    Args:
        capacity: most tokens that will ever be held, drafts included.
        captured: replay captured steps where possible. Not for a cache whose contents are used
            after the engine is gone.
        cache: to use instead of one of its own; steps are not captured then.

    Attributes:
        keeps_hidden: keep what the output projection is given.
        hidden: that of the latest step, if kept.  # (n, d)
        step_cache: captured steps; None where there can be none.
        rope_borders: text lengths that no step may lie across.
        states: of recurrent layers; None where there are none.
        prompt_inputs: what `prefill` gives the model beside tokens.
        own_cache: that of the model itself; None where `cache` takes its place.
    """

    def __init__(
        self,
        target: Target,
        capacity: int,
        captured: bool = True,
        cache: PositionCache | None = None,
    ) -> None:
        with target.runtime.lock:
            target.runtime.refresh()
        self.target = target
        self.keeps_hidden = False
        self.hidden: Tensor | None = None
        self._chosen: Choice | None = None
        self._model = target.model
        self._device = target.device
        self._mask_format = mask_format(target)
        self._builds_causal = uses_causal_sdpa(target.model)
        self._runner = ModelRunner(target)
        self._draft_patches: dict[tuple[SkipMask, DraftConfig], tuple[Patch, DraftWeights]] = {}
        self._draft_config = UNCHANGED
        self._weights: DraftWeights | None = None  # what the draft reads
        with target.runtime.lock:
            own = captured and cache is None
            steps = acquire_steps(target, self, self._mask_format, capacity) if own else None
        self.step_cache = steps
        if steps is not None:
            cache = steps.cache
        elif cache is None:
            parts = [layer.cached for layer in target.layers]
            cache = PositionCache(target.depth, capacity, parts=parts)
        self.cache = cache
        self._slots = torch.arange(self.cache.num_slots, device=self._device)
        # Of each cached token in its text: the nodes of a tree are stored one after another.
        self._positions = steps.positions if steps else self._slots.clone()
        self.states = state_checkpoint(target, self.cache)
        self.own_cache = own_cache(target, self.cache)
        self._last_logits_only = last_logits_option(target.model)
        self.prompt_inputs = TOKENS_ONLY
        self.rope_borders = RopeBorders(target.model)

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self.cache.position

    @property
    def takes_trees(self) -> bool:
        """Whether the model can be given the mask of a draft tree."""
        return self._mask_format.unsupported_reason is None

    def rewind(self, position: int) -> None:
        """Drop everything from `position` on."""
        self.cache.position = position

    @torch.inference_mode()
    def clear(self, position: int) -> None:
        """Drop everything from `position` on, and its values too.

        Values that are not numbers would spoil later steps: attention hides what is not to be seen
        by adding −∞, which leaves NaN what it is.
        """
        self.cache.clear(position)
        self.cache.position = position

    @contextmanager
    def draft_mode(self, mask: SkipMask, config: DraftConfig = UNCHANGED) -> Iterator[None]:
        """Inside, steps run as the draft model: without masked sublayers, with cheaper settings.

        Args:
            config: see `draft_mode.supported` for what this machine can do, and
                `draft_mode.with_vocabulary`.

        Raises:
            MaskError: the mask is for a model of another depth.
            UsageError: a vocabulary with a token that the model does not have.
        """
        with self.target.runtime.lock:
            skip, weights = self._draft_patch(mask, config)
            weights.prepare()
            self._draft_config, self._weights = config, weights
            try:
                with skip:
                    yield
            finally:
                self._draft_config, self._weights = UNCHANGED, None

    def _draft_patch(self, mask: SkipMask, config: DraftConfig) -> tuple[Patch, DraftWeights]:
        key = mask, config
        if key not in self._draft_patches:
            weights = draft_weights(self.target, mask, config)
            self._draft_patches[key] = skipping(self.target, mask), weights
        return self._draft_patches[key]

    @torch.inference_mode()
    def commit(self, start: int, kept: Sequence[int]) -> None:
        """Keep these of the entries written from `start` on, in this order, and drop the others.

        Args:
            kept: ascending offsets from `start`.
        """
        if any(offset != i for i, offset in enumerate(kept)):
            self.cache.compact(start, [start + offset for offset in kept])
            end = start + len(kept)
            self._positions[start:end] = self._slots[start:end]
        self.cache.position = start + len(kept)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> None:
        """Put prompt tokens into the cache, without computing their logits where avoidable."""
        if tokens:
            ids = torch.tensor(tokens, device=self._device)
            options = self._last_logits_only | self.prompt_inputs.of_first(len(tokens))
            self.forward(StepRows(ids, self._next_positions(len(tokens))), options)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """Run n tokens in a row and add them to the cache; the logits after each.  # (n, V)"""
        ids = torch.as_tensor(tokens, device=self._device)
        return self.forward(StepRows(ids, self._next_positions(len(ids))))

    @torch.inference_mode()
    def greedy_step(self, tokens: Sequence[int] | Tensor) -> Choice:
        """Like `step`, but the most likely next tokens.

        They stay on the device, so a draft can go on without waiting for the host.
        """
        ids = torch.as_tensor(tokens, device=self._device)
        self.forward(StepRows(ids, self._next_positions(len(ids))), greedy=True)
        assert self._chosen is not None
        return self._chosen

    @torch.inference_mode()
    def step_tree(
        self, inputs: Tensor | Sequence[int], depths: Sequence[int], attends: Tensor
    ) -> Tensor:
        """Run n nodes of a tree and add them to the cache; the logits after each.  # (n, V)

        Args:
            inputs: token ids (n,), or embeddings as they enter the decoder (n, d).
            depths: each node's distance from the root, the first row after the common context.
            attends: which of the k tree rows already cached and of these n each row attends to;
                all rows attend to the common context.  # (n, k + n) bool

        Raises:
            ModelError: the model cannot be given a tree's attention mask.
        """
        self._mask_format.require_trees()
        count, start = len(depths), self.cache.position
        root = start - (attends.shape[1] - count)
        positions = torch.tensor(depths, device=self._device).add_(root)
        positions.clamp_(max=self.rope_borders.last(root, self.target.context_limit))
        self.cache.check_room(count)
        visible = torch.ones(count, start + count, dtype=torch.bool, device=self._device)
        visible[:, root:] = attends
        self._positions[start : start + count] = positions
        inputs = torch.as_tensor(inputs, device=self._device)
        return self.forward(StepRows(inputs, positions, visible))

    @torch.inference_mode()
    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Embeddings as they enter the decoder.  # (n, d)"""
        ids = torch.tensor(tokens, device=self._device)
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        return embedded

    def _next_positions(self, count: int) -> Tensor:
        """Positions of the next `count` tokens in a row, which are also their slots."""
        self.cache.check_room(count)
        following = slice(self.cache.position, self.cache.position + count)
        if self._mask_format.reads_positions:
            self._positions[following] = self._slots[following]
        return self._slots[following]

    def forward(
        self, rows: StepRows, options: Mapping[str, Any] = NO_OPTIONS, greedy: bool = False
    ) -> Tensor:
        """Run rows and add them to the cache: every other method that runs the model comes here.

        A captured step is replayed if there is one for these rows, else the model's modules run.

        Args:
            options: more arguments of the model's forward; such steps are not captured.
            greedy: also compute what `greedy_step` returns.

        Returns:
            The logits after each row.  # (n, V)
        """
        count = len(rows.inputs)
        if self.prompt_inputs.shift:
            rows = rows._replace(positions=rows.positions + self.prompt_inputs.shift)
        outputs = StepOutputs(self.keeps_hidden, greedy)
        with self.target.runtime.lock:
            found = None if options else self._replay(rows, outputs)
            if found is None and self.own_cache is not None:
                found = self._run_with_own_cache(self.own_cache, rows, outputs, options)
            elif found is None and self.states is not None:
                found = self._run_with_states(self.states, rows, outputs, options)
            elif found is None:
                found = self._run_modules(rows, outputs, options)
            self.target.runtime.forward_ran()
        if rows.slots is None:
            self.cache.position += count
        logits, *more = (each[:count] for each in found)
        self.hidden = more.pop(0) if self.keeps_hidden else None
        self._chosen = Choice(*more) if greedy else None
        return logits

    def _run_modules(
        self, rows: StepRows, outputs: StepOutputs, options: Mapping[str, Any]
    ) -> Sequence[Tensor]:
        mask = self._attention_mask(rows)
        slots = None if rows.slots is None else CacheSlots(rows.slots, self.cache.num_slots)
        if mask is None:  # the cache applies the window
            self.cache.window = self._draft_config.attention_window
        try:
            with nullcontext() if slots is None else self.cache.at_slots(slots):
                return self._runner(
                    rows.inputs, rows.positions, self.cache, mask, outputs, self._weights, options
                )
        finally:
            self.cache.window = None

    def _run_with_states(
        self,
        states: StateCheckpoint,
        rows: StepRows,
        outputs: StepOutputs,
        options: Mapping[str, Any],
    ) -> Sequence[Tensor]:
        """Like `_run_modules`; before the rows, the tokens since the checkpoint are read again."""
        cache, position = self.cache, self.cache.position
        drafting = self._drafting
        start = states.begin(position, len(rows.inputs), drafting)
        again, count = slice(start, position), position - start
        every = rows.after(states.tokens[again], self._slots[again])
        # A single row of the whole model is hardly ever dropped.
        first = 0 if drafting or len(rows.inputs) == 1 else count
        cache.position, cache.written = start, position
        try:
            with states.reading(start, len(every.inputs), first):
                found = self._run_modules(every, outputs, options)
        finally:
            cache.position, cache.written = position, 0
        states.forward_ran(position, rows.inputs, drafting)
        return [each[count:] for each in found]

    @property
    def _drafting(self) -> bool:
        """Whether the draft model runs."""
        return self._weights is not None or self.target.runtime.active_patch_keys() != ()

    def _run_with_own_cache(
        self,
        own: OwnCacheCheckpoint,
        rows: StepRows,
        outputs: StepOutputs,
        options: Mapping[str, Any],
    ) -> Sequence[Tensor]:
        """Run rows behind the tokens since the checkpoint, which are read again."""
        position, drafting = self.cache.position, self._drafting
        start = own.begin(position, len(rows.inputs), drafting)
        tokens, positions = own.tokens[start:position], self._slots[start:position]
        if start < position and own.keeps and not drafting:
            more = self._last_logits_only
            self._runner(tokens, positions, own.cache, None, LOGITS_ONLY, None, more)
            own.save(position)
            start, tokens, positions = position, tokens[:0], positions[:0]
        inputs, places, *_ = rows.after(tokens, positions)
        found = self._runner(inputs, places, own.cache, None, outputs, self._weights, options)
        own.forward_ran(position, rows.inputs, drafting)
        return [each[position - start :] for each in found]

    def _attention_mask(self, rows: StepRows) -> Any:
        """In the form that the model takes; None where it builds its own."""
        count, start = len(rows.inputs), self.cache.position
        attends, window = rows.attends, self._draft_config.attention_window
        if attends is None:
            if count == 1 or not (self._builds_causal and (start or window is not None)):
                return None
            # Built once a step here; the model would build it again in every layer.
            attends = causal(start, count, self._device)
        keys = self._positions[: start + count]
        if rows.slots is not None:
            self._positions[rows.slots] = rows.positions
            keys = self._positions
        if window is not None:
            attends = within_window(attends, rows.positions, keys, window)
        return self._mask_format.build(attends, rows.positions, keys, self._model.dtype)

    def _replay(self, rows: StepRows, outputs: StepOutputs) -> Sequence[Tensor] | None:
        """What a captured step returns for these rows; None if there is none.

        Rows are padded to a captured number.
        """
        patches = self.target.runtime.active_patch_keys()
        steps, count, start = self.step_cache, len(rows.inputs), self.cache.position
        padded = None if steps is None else steps.padded_rows(count)
        if steps is None or padded is None or patches is None:
            return None
        end = start + padded if rows.slots is None else self.cache.num_slots
        capacity = steps.context_len(end)
        window = self._draft_config.attention_window
        if window is not None and end < SINKS + window:
            window = None  # the window would hide nothing yet
        gathers = window is not None and steps.gathers_window(padded, rows.attends is not None)
        key = StepKey(
            patches,
            0 if steps.any_rows else padded,
            0 if gathers else capacity,
            rows.attends is not None,
            rows.inputs.is_floating_point(),
            outputs,
            self._draft_config.weights,
            window,
            self._draft_config.vocab_size,
            self._draft_config.experts,
        )
        return steps.run(key, self._weights, rows.padded(padded, start, capacity, self._slots))
