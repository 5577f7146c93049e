"""Captured steps: each is captured when it is first used over a fixed KV cache, then replayed.

A step is a function of tensors alone: inputs, positions, slots, and for a tree which slots each
row attends to. The native kernels run one for any number of rows. Elsewhere its shapes are fixed,
so there is one for every number of rows and length of the cache that is read: on a GPU a CUDA
graph, on a CPU an fx graph; the runtime `inductor` compiles it first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skipopt.draft_config import WeightBits
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import SINKS, AttentionMaskFormat, within_window
from skipopt.runtime.draft_mode import DraftWeights
from skipopt.runtime.fx_graph import program
from skipopt.runtime.inductor import SectionCompiler
from skipopt.runtime.kv_cache import CacheSlots, PositionCache
from skipopt.runtime.linear_fusion import LinearFuser
from skipopt.runtime.model_runner import NUM_GREEDY_OUTPUTS, ModelRunner, StepOutputs
from skipopt.runtime.native_code import Translation
from skipopt.runtime.native_step import MAX_ROWS, NativeStep, Scratch, translation
from skipopt.runtime.step_check import (
    NATIVE_CHECK_ROWS,
    check_replay,
    compare,
    first_rows_of_modules,
)
from skipopt.runtime.step_rows import StepRows
from skipopt.runtime.tracing import CannotCaptureError, record

CAPTURE_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
MIN_CAPACITY = 128
# Longer caches grow by a fixed stride, since steps of a half would take too much memory.
LONG_CACHE, LONG_STRIDE = 2048, 1024

Replay = Callable[..., Sequence[Tensor]]
DraftChanges = tuple[WeightBits | int | None, ...]  # see `StepKey.draft_changes`


class StepKey(NamedTuple):
    """What all replays of one captured step have in common.

    Attributes:
        patches: keys of the active patches, such as skip masks.
        rows: tokens or nodes, padding included; 0 for any number.
        context_len: slots that attention reads; 0 if it reads a copy of those in the window.
        tree: whether its inputs say which slots each row attends to.
        embedded: whether its inputs are embeddings, and not token ids.
        outputs: what it returns in addition to logits.
        weight_bits: of quantized weights; None for the model's own.
        window: latest positions that are read in addition to the first `SINKS`; None for all.
        vocab_size: tokens whose logits are computed; None for all.
        experts: routed experts that are run for each row; None for as many as the model.
    """

    patches: Hashable
    rows: int
    context_len: int
    tree: bool
    embedded: bool
    outputs: StepOutputs
    weight_bits: WeightBits | None = None
    window: int | None = None
    vocab_size: int | None = None
    experts: int | None = None

    @property
    def draft_changes(self) -> DraftChanges:
        """Weight bits, window, vocabulary size, experts: all None unless a draft changes them."""
        return self.weight_bits, self.window, self.vocab_size, self.experts

    @property
    def is_shared(self) -> bool:
        """Whether it is the model's own step, but for the weights that it reads."""
        return not self.patches and self._replace(weight_bits=None).is_own

    @property
    def is_own(self) -> bool:
        """Whether no draft changes it."""
        return all(each is None for each in self.draft_changes)


def bucket_rows(count: int) -> int | None:
    """The smallest captured number of rows that is at least `count`; None if there is none."""
    return next((rows for rows in CAPTURE_ROWS if rows >= count), None)


def bucket_capacity(end: int) -> int:
    """How many slots are read by a step that writes up to `end`: 128, 192, 256, 384, 512, …

    With these sizes few steps are captured, and from 128 slots on attention reads at most half as
    many slots again as it needs.
    """
    length = MIN_CAPACITY
    while length < end:
        length += length // 2 if length & (length - 1) == 0 else length // 3
    return length


def slots_for(capacity: int) -> int:
    """Slots to allocate for `capacity` tokens and padding rows.

    There are few sizes, so that texts share captured steps. A step reads its cache at a fixed
    place in memory, so each size of cache needs its own steps.
    """
    needed = capacity + CAPTURE_ROWS[-1]
    slots = bucket_capacity(needed)
    return slots if slots <= LONG_CACHE else -(-needed // LONG_STRIDE) * LONG_STRIDE


class StepCache:
    """The captured steps of one model over one KV cache. One engine uses it at a time.

    Attributes:
        cache: at a fixed place in memory.
        positions: of each cached token in its text.  # (slots,)
        capacity: most tokens that an engine may ask for.
        generation: of the model that its steps were captured from, see `StepCachePool`.
    """

    def __init__(self, target: Target, mask_format: AttentionMaskFormat, capacity: int) -> None:
        slots = slots_for(capacity)
        self.capacity = slots - CAPTURE_ROWS[-1]
        parts = [layer.cached for layer in target.layers]
        self.cache = PositionCache(target.depth, capacity, slots, parts)
        self.positions = torch.arange(slots, device=target.device)
        self._target = target
        self._runtime = target.runtime
        self._pool = target.runtime.step_caches
        self._runner = ModelRunner(target)
        self._mask_format = mask_format
        self._dtype = target.model.dtype
        self._slots = torch.arange(slots, device=target.device)
        self._blocks = [layer.block.module for layer in target.layers]
        self._replays: dict[StepKey, Replay] = {}
        self._uses: Counter[StepKey] = Counter()
        self._sections = SectionCompiler()
        self._fuser: LinearFuser | None = None
        self._scratch = Scratch()
        self._sizes = _sizes(target, slots)
        self._translations: dict[StepKey, Translation] = {}
        self._uncapturable: set[DraftChanges] = set()
        self._graph_pool: Any = None  # memory that CUDA graphs share, since they never overlap
        self.generation = self._pool.generation
        self._pool.all.add(self)

    @property
    def any_rows(self) -> bool:
        """Whether one captured step serves any number of rows, up to `MAX_ROWS`."""
        return self._pool.native is not None

    def padded_rows(self, count: int) -> int | None:
        """Rows of the captured step that serves `count` rows; None if there is none."""
        if self.any_rows:
            return count if count <= MAX_ROWS else None
        return bucket_rows(count)

    def context_len(self, end: int) -> int:
        """How many slots a step reads that writes up to `end`."""
        slots = self.cache.num_slots
        return slots if self.any_rows else min(bucket_capacity(end), slots)

    def gathers_window(self, rows: int, tree: bool) -> bool:
        """Whether a step with an attention window reads a copy of the keys and values in it.

        Else its mask hides the others, which the native kernels then do not read.
        """
        return not self.any_rows and rows == 1 and not tree

    @property
    def fused_group_sizes(self) -> list[int]:
        """How many layers each fused weight stands for."""
        return [] if self._fuser is None else self._fuser.group_sizes

    @property
    def extra_bytes(self) -> int:
        """Memory of the fused weights that these steps read."""
        return 0 if self._fuser is None else self._fuser.extra_bytes

    @property
    def scratch_bytes(self) -> int:
        """Memory that native steps compute in."""
        return len(self._scratch.memory)

    @property
    def cache_bytes(self) -> int:
        """Memory of the KV cache."""
        return self.cache.allocated_bytes

    @torch.inference_mode()
    def forget_positions(self) -> None:
        """Each cached token has the position of its slot."""
        self.positions.copy_(self._slots)

    def run(
        self, key: StepKey, weights: DraftWeights | None, rows: StepRows
    ) -> Sequence[Tensor] | None:
        """What `ModelRunner` returns for these rows; None while the step is not captured.

        The cache's position is not changed.

        Args:
            weights: what a draft reads, as the key says.
            rows: `key.rows` of them; for a tree, `attends` is of `key.context_len` slots.
        """
        start, slots = self.cache.position, rows.slots
        if slots is None:
            slots = self._slots[start : start + len(rows.inputs)]
        given = [rows.inputs, rows.positions, slots]
        if rows.attends is not None:
            given.append(rows.attends)
        if key in self._replays:
            return self._replays[key](*given)
        return self._capture(key, weights, given)

    def _capture(
        self, key: StepKey, weights: DraftWeights | None, given: Sequence[Tensor]
    ) -> Sequence[Tensor] | None:
        """Capture a step if it is due; returns what it returns, None if it was not captured."""
        self._uses[key] += 1
        early = self._pool.waits(self._uses[key])
        supported = self._pool.unsupported_reason is None
        if early or not supported or key.draft_changes in self._uncapturable:
            return None
        call = self._static_step(key, weights)
        try:
            with self._pool.timed_capture():
                if not self.cache.contents():
                    call(*given)  # the first run creates what models and caches create lazily
                replay = self._to_replay(key, weights)(call, given)
                wanted = self._wanted(key, call, given)
                if self._pool.native is None:
                    check_replay(call, replay, given, quantized=key.weight_bits is not None)
            found = replay(*given)
            if wanted is not None:
                compare(wanted, [each[:NATIVE_CHECK_ROWS] for each in found])
        except Exception as error:  # whatever fails here, the model's modules can run
            self._give_up(key, error)
            return None
        self._replays[key] = replay
        return found

    def _wanted(
        self, key: StepKey, call: Replay, given: Sequence[Tensor]
    ) -> Sequence[Tensor] | None:
        """What a native step has to return for the first rows; None if it is not compared.

        Steps of quantized drafts are translated like the others, and whatever they return is
        verified. What this leaves in the cache is overwritten by the step that follows.
        """
        if self._pool.native is None or key.weight_bits is not None:
            return None
        return first_rows_of_modules(call, given)

    def _give_up(self, key: StepKey, error: Exception) -> None:
        reason = capture_error(error)
        native = self._pool.native is not None
        if key.is_own and native:
            self._runtime.disable_native(reason)
            return
        others = key.weight_bits, key.vocab_size, key.experts
        if all(each is None for each in others) and not native:
            self._runtime.disable_capture(reason)
        # Only drafts of this kind run eagerly.
        self._uncapturable.add(key.draft_changes)

    def _to_replay(
        self, key: StepKey, weights: DraftWeights | None
    ) -> Callable[[Replay, Sequence[Tensor]], Replay]:
        """What makes a replay of a step out of the step and inputs of it."""
        if self._pool.native is not None:
            return partial(self._native, key, weights)
        return self._cuda_graph if self.positions.is_cuda else self._program

    def _static_step(self, key: StepKey, weights: DraftWeights | None) -> Replay:
        """The step as a function of tensors, run by the model's own modules."""

        def call(
            inputs: Tensor, positions: Tensor, slot_mapping: Tensor, attends: Tensor | None = None
        ) -> Sequence[Tensor]:
            self.positions.index_copy_(0, slot_mapping, positions)
            slots = self._cache_slots(key, slot_mapping)
            if attends is None:
                visible = slots.visible
                visible = self._slots[: key.context_len] if visible is None else visible
                attends = visible <= slot_mapping[:, None]
            keys = slots.gather(self.positions[None, None, :, None])[0, 0, :, 0]
            if key.window is not None and key.context_len:
                attends = within_window(attends, positions, keys, key.window)
            mask = self._mask_format.build(attends, positions, keys, self._dtype)
            with self.cache.at_slots(slots):
                return self._runner(inputs, positions, self.cache, mask, key.outputs, weights)

        return call

    def _cache_slots(self, key: StepKey, slot_mapping: Tensor) -> CacheSlots:
        if key.window is None or key.context_len:
            return CacheSlots(slot_mapping, key.context_len)
        latest = slot_mapping[-1:] + self._slots[: key.window] - (key.window - 1)
        visible = torch.cat([self._slots[:SINKS], latest])
        return CacheSlots(slot_mapping, len(visible), visible)

    def _native(
        self, key: StepKey, weights: DraftWeights | None, call: Replay, given: Sequence[Tensor]
    ) -> Replay:
        assert self._pool.native is not None

        def inputs_of(rows: int) -> list[Tensor]:
            return _other_rows(given, rows, self._target.context_limit, self._slots)

        sizes = [*self._sizes, key.vocab_size or 0]
        copies = None if weights is None else weights.copies
        if key.is_shared and (key.weight_bits is None or copies is not None):
            dropped = 0 if key.outputs.greedy else NUM_GREEDY_OUTPUTS
            code = self._translation(key, inputs_of, sizes).code(dropped, copies)
        else:
            code = translation(call, inputs_of, sizes).code()
        return NativeStep(self._pool.native, code, len(given), self._scratch)

    def _translation(
        self, key: StepKey, inputs_of: Callable[[int], list[Tensor]], sizes: Sequence[int]
    ) -> Translation:
        """That of the model's own step which returns the most likely tokens too."""
        outputs = key.outputs._replace(greedy=True)
        own = key._replace(weight_bits=None, outputs=outputs)
        if own not in self._translations:
            call = self._static_step(own, None)
            self._translations[own] = translation(call, inputs_of, sizes)
        return self._translations[own]

    def _program(self, call: Replay, given: Sequence[Tensor]) -> Replay:
        recording, _ = record(call, given, self._blocks)
        if self._pool.inductor:
            return self._sections.compile(recording, given)
        unpacked = self._runtime.kernels.unpacked_weights
        if self._fuser is None and unpacked:
            self._fuser = LinearFuser(unpacked)
        if self._fuser is not None:
            recording = self._fuser.fuse(recording)
        return program(recording)

    def _cuda_graph(self, call: Replay, given: Sequence[Tensor]) -> Replay:
        from skipopt.runtime.cuda_graph import CudaGraph

        if self._graph_pool is None:
            self._graph_pool = torch.cuda.graph_pool_handle()
        if self._pool.inductor:
            call = self._program(call, given)
        return CudaGraph(call, given, self._graph_pool)


def capture_error(error: Exception) -> str:
    """Why a step could not be captured, in one line; with the kind of an unexpected error."""
    text = " ".join(str(error).split())[:160]
    expected = isinstance(error, CannotCaptureError | RuntimeError) and text
    return text if expected else f"{type(error).__name__}: {text}".removesuffix(": ")


def _sizes(target: Target, slots: int) -> list[int]:
    """Sizes of the model's tensors and of its attention, and of the cache."""
    tensors = (*target.model.parameters(), *target.model.buffers())
    found = {size for each in tensors for size in each.shape}
    config = target.model.config.get_text_config(decoder=True)
    found |= {x for x in config.to_dict().values() if isinstance(x, int) and x > 0}
    return sorted(found | {slots})


def _other_rows(
    given: Sequence[Tensor], rows: int, context_limit: int, slots: Tensor
) -> list[Tensor]:
    """Inputs of a step like those given, with another number of rows.

    Their tokens are not the first one given. Each attends to everything before the first, and to
    itself.
    """
    inputs, positions, slot_mapping, *attends = given
    first, start = int(positions[0]), int(slot_mapping[0])
    places = torch.arange(first, first + rows).clamp_(max=context_limit - 1)
    token = 0 if inputs.is_floating_point() else int(inputs[0] == 0)
    others = [torch.full((rows, *inputs.shape[1:]), token, dtype=inputs.dtype), places]
    others.append(slots[start : start + rows])
    if attends:
        visible = torch.zeros(rows, attends[0].shape[1], dtype=torch.bool)
        visible[:, : start + 1] = True
        others.append(visible)
    return others
