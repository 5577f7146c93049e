"""Steps captured as they are first used, over a cache at a fixed place, and replayed from then on.

A step becomes a function of tensors alone: what goes in, where it stands, where it is written,
what it sees. Its shapes are fixed, so there is one for every number of rows, length of the cache
that is read, and mask. On a GPU it is a CUDA graph, on a CPU a TorchScript program; compiled
first, where that is asked for. Knows nothing of drafts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skipopt.models.patch import Patch
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import SINKS, AttentionMaskFormat
from skipopt.runtime.inductor import compiled
from skipopt.runtime.kv_cache import CacheSlots, PositionCache
from skipopt.runtime.linear_fusion import LinearFuser
from skipopt.runtime.model_runner import ModelRunner, StepOutputs
from skipopt.runtime.torchscript import Compiler
from skipopt.runtime.tracing import CannotCaptureError, record

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
SHORTEST_READ = 128
LONG, LONG_STRIDE = 2048, 1024  # from here on, half as much again would be dear
NEAR = 1e-3  # of the largest value: how far a replay may be from the modules' own result

Replay = Callable[..., Sequence[Tensor]]


class StepKey(NamedTuple):
    """What is the same in all replays of a captured step.

    Attributes:
        changes: what is in force on the model: masks, levers.
        rows: tokens or nodes, filling included.
        reads: length of the cache that attention looks at.
        tree: are the rows told what they see, or does each see all before it?
        embedded: do embeddings go in, or token ids?
        wanted: what comes out beside logits.
        bits: of the weights, where they are not the model's own.
        window: latest positions that are seen beside the first; `reads` is then 0.
    """

    changes: Hashable
    rows: int
    reads: int
    tree: bool
    embedded: bool
    wanted: StepOutputs
    bits: int | None = None
    window: int | None = None


def bucket_rows(count: int) -> int | None:
    """The next number of rows that is captured; None where there is none."""
    return next((rows for rows in ROWS if rows >= count), None)


def bucket_capacity(end: int) -> int:
    """How much of the cache a step reads that writes up to `end`: 128, 192, 256, 384, 512, …

    So attention reads at most half as much again as it must, and few steps are captured.
    """
    length = SHORTEST_READ
    while length < end:
        length += length // 2 if length & (length - 1) == 0 else length // 3
    return length


def slots_for(capacity: int) -> int:
    """Tokens that memory is taken for: with filling, and in few sizes, so that texts share steps.

    A cache of another size is another place in memory, for which everything is captured again.
    """
    slots = bucket_capacity(capacity + ROWS[-1])
    return slots if slots <= LONG else -(-(capacity + ROWS[-1]) // LONG_STRIDE) * LONG_STRIDE


class StepCache:
    """The captured steps of one model over one cache. One engine uses it at a time.

    Attributes:
        cache: of a fixed place in memory.
        places: where each cached token stands in its text.  # (slots,)
        capacity: most tokens that an engine may ask for; more than it was made for.
    """

    def __init__(self, target: Target, form: AttentionMaskFormat, capacity: int) -> None:
        slots = slots_for(capacity)
        self.capacity = slots - ROWS[-1]
        self.cache = PositionCache(target.depth, capacity, slots)
        self.places = torch.arange(slots, device=target.device)
        self._runtime = target.runtime
        self._pool = target.runtime.step_caches
        self._forward = ModelRunner(target)
        self._form = form
        self._dtype = target.model.dtype
        self._slots = torch.arange(slots, device=target.device)
        self._borders = [layer.whole.module for layer in target.layers]
        self._replays: dict[StepKey, Replay] = {}
        self._used: Counter[StepKey] = Counter()
        self._compiler = Compiler(compiled if self._pool.inductor else None)
        sources = target.runtime.kernels.unpacked_weights
        self._fuser = LinearFuser(sources) if sources else None
        self._eager_bits: set[int | None] = set()  # kernels that cannot be captured
        self._graph_pool: Any = None  # memory that CUDA graphs share: they never run at once
        self._pool.all.add(self)

    @property
    def count(self) -> int:
        """Steps captured so far."""
        return len(self._replays)

    @property
    def extra_bytes(self) -> int:
        """Memory of weights that were joined for these steps."""
        return 0 if self._fuser is None else self._fuser.extra_bytes

    @property
    def cache_bytes(self) -> int:
        return self.cache.allocated_bytes

    def run(
        self,
        step: StepKey,
        weights: Patch | None,
        inputs: Tensor,
        places: Tensor,
        sees: Tensor | None,
    ) -> Sequence[Tensor] | None:
        """What `ModelRunner` returns for these rows; None while the step is not captured.

        The cache's position is where the rows are written, and stays.

        Args:
            weights: the patch under which `step.bits` are read.
            inputs: `step.rows` token ids, or embeddings.
            places: where they stand in the text.  # (rows,)
            sees: for a tree, which slots each row attends to.  # (rows, reads) bool
        """
        start = self.cache.position
        slots = self._slots[start : start + step.rows]
        given = (inputs, places, slots) if sees is None else (inputs, places, slots, sees)
        if step not in self._replays and not self._capture(step, weights, given):
            return None
        return self._replays[step](*given)

    def _capture(self, step: StepKey, weights: Patch | None, given: tuple[Tensor, ...]) -> bool:
        self._used[step] += 1
        early = self._used[step] <= self._pool.min_uses
        if early or self._pool.unsupported_reason or step.bits in self._eager_bits:
            return False
        call = self._static(step, weights)
        try:
            with self._pool.timed_capture():
                call(*given)  # what models and caches make at first use is made now
                on_device = self._on_gpu if given[0].is_cuda else self._on_cpu
                replay = on_device(call, given)
                _check(call, replay, given)
        except (CannotCaptureError, RuntimeError, TypeError, NotImplementedError) as error:
            if step.bits is None:
                self._runtime.disable_capture(" ".join(str(error).split())[:160])
            self._eager_bits.add(step.bits)
            return False
        self._replays[step] = replay
        return True

    def _static(self, step: StepKey, weights: Patch | None) -> Replay:
        """The step as a function of tensors, run by the model's own modules."""

        def call(
            inputs: Tensor, places: Tensor, slots: Tensor, sees: Tensor | None = None
        ) -> Sequence[Tensor]:
            self.places.index_copy_(0, slots, places)
            aim = self._aim(step, slots)
            if sees is None:
                visible = self._slots[: step.reads] if aim.visible is None else aim.visible
                sees = visible <= slots[:, None]
            keys = aim.gather(self.places[None, None, :, None])[0, 0, :, 0]
            mask = self._form.build(sees, places, keys, self._dtype)
            with self.cache.at_slots(aim):
                return self._forward(inputs, places, self.cache, mask, step.wanted, weights)

        return call

    def _aim(self, step: StepKey, slots: Tensor) -> CacheSlots:
        if step.window is None:
            return CacheSlots(slots, step.reads)
        latest = slots[-1:] + self._slots[: step.window] - (step.window - 1)
        shown = torch.cat([self._slots[:SINKS], latest])
        return CacheSlots(slots, len(shown), shown)

    def _on_cpu(self, call: Replay, given: Sequence[Tensor]) -> Replay:
        recording, _ = record(call, given, self._borders)
        if self._fuser is not None:
            recording = self._fuser.fuse(recording)
        return self._compiler.compile(recording, given)

    def _on_gpu(self, call: Replay, given: Sequence[Tensor]) -> Replay:
        from skipopt.runtime.cuda_graph import CudaGraph

        if self._graph_pool is None:
            self._graph_pool = torch.cuda.graph_pool_handle()
        if self._pool.inductor:
            recording, _ = record(call, given, self._borders)
            call = self._compiler.compile(recording, given)
        return CudaGraph(call, given, self._graph_pool)


def _check(call: Replay, replay: Replay, given: tuple[Tensor, ...]) -> None:
    """Does the replay do what the modules do, for other tokens than it was captured with?

    What it leaves in the cache is overwritten by the step that follows.
    """
    inputs, *rest = given
    other = inputs.flip(-1) if inputs.is_floating_point() else torch.ones_like(inputs)
    for expected, found in zip(call(other, *rest), replay(other, *rest), strict=True):
        furthest = (expected - found).abs().max()
        if not furthest <= NEAR * expected.abs().max() + 1e-6:
            raise CannotCaptureError(f"a replay differs from the model by {float(furthest):.2g}")
