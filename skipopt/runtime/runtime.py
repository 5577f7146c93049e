"""The `Runtime` of a target: the one owner of everything mutable that its forwards use."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from skipopt.errors import UsageError
from skipopt.kernels.native import NativeKernels, native_kernels
from skipopt.kernels.native_linear import native_kernels_of, native_product
from skipopt.kernels.packed_linear import LinearKernels, choose_kernels
from skipopt.kernels.quantized_linear import QuantizedLinearCache
from skipopt.masks import KINDS
from skipopt.models.device_map import eager_only_reason, input_device
from skipopt.models.model_lock import ModelLock, model_lock
from skipopt.models.patch import Forward, Patch
from skipopt.models.sublayers import DecoderLayer
from skipopt.runtime.break_even import BreakEven
from skipopt.runtime.draft_head import DraftHeads
from skipopt.runtime.model_state import ModelState
from skipopt.runtime.step_cache_pool import StepCachePool

RUNTIMES = ("auto", "eager", "native", "prepacked", "captured", "inductor")
CAPTURE_DEVICES = ("cpu", "cuda")
PREPACKING = ("auto", "native", "prepacked", "captured")  # if steps are not native
# Runtimes that capture steps, and how often a step runs eagerly before it is captured. `auto`
# cannot know how often a step will run again; after 64 uses the eager runs have cost about as
# much as capturing does, so it never loses more than half.
MIN_USES = {"auto": 64, "native": 0, "captured": 0, "inductor": 0}
NATIVE = ("auto", "native")
NATIVE_TYPES = (torch.float32, torch.bfloat16)

Clock = Callable[[], float]


class Runtime:
    """How one target's forwards are run.

    Args:
        kernels: how linear layers are computed during skipopt's own forwards.
        step_caches: captured steps with their KV caches, or why there are none.
        quantized: int8 and int4 copies of linear layers, for drafts that ask for them.
        draft_heads: output projections over part of the vocabulary, for the same.
        eager_only_reason: why the model can only run eagerly; None where it need not.
        on_notice: called with one line when steps turn out to run in a way other than asked for.
        fallback_kernels: makes those that are used if steps turn out not to be native.
        fallback_min_uses: see `StepCachePool.min_uses`, for the same case.
        state: notices changes of the model; None if it is never changed.
        lock: held while the model runs.

    Attributes:
        break_even: decides when drafts begin.
    """

    def __init__(
        self,
        kernels: LinearKernels,
        step_caches: StepCachePool,
        quantized: QuantizedLinearCache,
        draft_heads: DraftHeads,
        eager_only_reason: str | None = None,
        on_notice: Callable[[str], None] | None = None,
        fallback_kernels: Callable[[], LinearKernels] = LinearKernels,
        fallback_min_uses: int = 0,
        state: ModelState | None = None,
        lock: ModelLock | None = None,
    ) -> None:
        self.lock = lock or ModelLock()
        self.kernels = kernels
        self.step_caches = step_caches
        self.quantized = quantized
        self.draft_heads = draft_heads
        self.eager_only_reason = eager_only_reason
        self.break_even = BreakEven()
        self._active_patches: list[Patch] = []
        self._on_notice = on_notice
        self._fallback_kernels = fallback_kernels
        self._fallback_min_uses = fallback_min_uses
        self._state = state

    def refresh(self) -> None:
        """Drop copies of weights and captured steps if the model has changed since the last call.

        Called before each text. What `ModelState` does not compare goes unnoticed.
        """
        if self._state is None or not self._state.changed():
            return
        self.step_caches.drop()
        self.quantized.drop_copies()
        self.draft_heads.clear()
        self.break_even.forget()
        if self.kernels.extra_bytes:
            self.kernels = self._fallback_kernels()

    @property
    def name(self) -> str:
        """`native`, `captured`, `inductor`, `prepacked` or `eager`: how steps are run."""
        if self.step_caches.unsupported_reason:
            return self.kernels.name
        if self.step_caches.native is not None:
            return "native"
        return "inductor" if self.step_caches.inductor else "captured"

    def patch(self, changes: Iterable[tuple[nn.Module, Forward]], key: Hashable = None) -> Patch:
        """A patch on the model's modules that captured steps take notice of.

        Args:
            key: equal for patches that do the same; None if no other patch does the same, so
                that steps under it are never captured.
        """
        return Patch(changes, key, self._active_patches, self.lock)

    def active_patch_keys(self) -> tuple[Hashable, ...] | None:
        """Keys of the active patches, outermost first; None if one of them has no key."""
        keys = tuple(patch.key for patch in self._active_patches)
        return None if None in keys else keys

    def disable_capture(self, reason: str) -> None:
        """Run all further steps eagerly, and report the reason where capturing was asked for."""
        self.step_caches.disable(reason)
        self.notify_fallback()

    def disable_native(self, reason: str) -> None:
        """Capture further steps as fx graphs, with prepacked weights, and report the reason."""
        self.step_caches.native = None
        self.step_caches.min_uses = self._fallback_min_uses
        self.kernels = self._fallback_kernels()
        if self._on_notice:
            self._on_notice(f"runtime {self.name}: steps are not native, {reason}")

    def notify_fallback(self) -> None:
        """Report why steps are not captured although that was asked for; else do nothing."""
        reason = self.step_caches.unsupported_reason
        if self._on_notice and reason and self.step_caches.requested:
            self._on_notice(f"runtime {self.name}: steps are not captured, {reason}")

    def clock_without_capture(self, clock: Clock) -> Clock:
        """The clock, stopped while steps are captured: capturing is paid for once."""
        return self.step_caches.clock_without_capture(clock)

    def forget(self) -> None:
        """Drop captured steps and copies for drafts, as if nothing had been decoded yet."""
        gc.collect()  # an engine that is no longer used gives its steps back first
        self.step_caches.idle.clear()
        self.quantized.clear()
        self.draft_heads.clear()
        self.break_even.forget()

    @contextmanager
    def capture_immediately(self) -> Iterator[None]:
        """Inside, drafts begin at once, and a step is captured at its first use.

        For measurements of the steady state.
        """
        with self.step_caches.capture_immediately(), self.break_even.drafting_at_once():
            yield

    @property
    def puts_drafts_off(self) -> bool:
        """Whether drafts wait until they pay back what preparing them costs.

        Only where results do not depend on the number of rows of a step. Elsewhere a text below
        float32 could depend on when drafts begin.
        """
        return self.step_caches.native is not None and self.step_caches.puts_drafts_off


def check_runtime(name: str) -> None:
    """Raise UsageError for a name that is not one of `RUNTIMES`."""
    if name not in RUNTIMES:
        raise UsageError(f"unknown runtime {name!r}", hint=f"use one of {', '.join(RUNTIMES)}")


def make_runtime(
    model: Any,
    layers: Sequence[DecoderLayer],
    requested: str = "auto",
    on_notice: Callable[[str], None] | None = None,
) -> Runtime:
    """Choose kernels and prepare captured steps for a model, as `requested` allows.

    Args:
        requested: one of `RUNTIMES`.

    Raises:
        UsageError: an unknown runtime.
    """
    check_runtime(requested)
    only_eager = eager_only_reason(model)
    excluded = _patched_by_masks(layers)
    step_caches = _step_caches(model, only_eager, requested)

    def packed() -> LinearKernels:
        return choose_kernels(model, excluded)

    prepacking = only_eager is None and requested in PREPACKING and step_caches.native is None
    kernels = packed() if prepacking else LinearKernels()
    # The kernels of the runtime at the time: those of a changed model are made anew.
    quantized = _quantized(model, excluded, lambda: runtime.kernels, step_caches.native)
    runtime = Runtime(
        kernels,
        step_caches,
        quantized,
        DraftHeads(model, quantized, step_caches.native),
        only_eager,
        on_notice,
        packed,
        MIN_USES.get(requested, 0),
        ModelState(model),
        model_lock(model),
    )
    if only_eager is None:
        runtime.notify_fallback()
        if requested == "native" and on_notice and runtime.name == "captured":
            on_notice(f"runtime {runtime.name}: steps are not native, {_not_native_reason(model)}")
    elif requested != "eager" and on_notice is not None:
        on_notice(f"runtime eager: {only_eager}")
    return runtime


def _not_native_reason(model: Any) -> str:
    """Why steps that can be captured are not run on the native kernels."""
    if (device := input_device(model).type) != "cpu":
        return f"the model is on {device}"
    if model.dtype not in NATIVE_TYPES:
        return f"the model is in {str(model.dtype).removeprefix('torch.')}"
    return "the kernels are not installed"


def _quantized(
    model: Any,
    excluded: Collection[nn.Module],
    kernels: Callable[[], LinearKernels],
    native: NativeKernels | None,
) -> QuantizedLinearCache:
    if native is not None:
        return QuantizedLinearCache(
            model,
            excluded,
            lambda layer: native_product(native, layer),
            native_kernels_of(native),
        )

    def own_product(layer: nn.Linear) -> Forward:
        with kernels().patch:
            return layer.forward

    return QuantizedLinearCache(model, excluded, own_product)


def _patched_by_masks(layers: Sequence[DecoderLayer]) -> Collection[nn.Module]:
    branches = {b.module for layer in layers for kind in KINDS for b in layer.branches(kind)}
    return branches | {m for layer in layers for kind in KINDS for m in layer.branch_norms[kind]}


def _step_caches(model: Any, only_eager: str | None, requested: str) -> StepCachePool:
    if requested not in MIN_USES:
        return StepCachePool(
            unsupported_reason=f"runtime {requested} was asked for", requested=False
        )
    device = input_device(model).type
    reason = only_eager
    if reason is None and device not in CAPTURE_DEVICES:
        reason = f"steps are not captured on {device}"
    native = native_kernels() if requested in NATIVE and device == "cpu" else None
    if native is None or reason is not None or model.dtype not in NATIVE_TYPES:
        return StepCachePool(MIN_USES[requested], reason, inductor=requested == "inductor")
    return StepCachePool(
        native=native, puts_drafts_off=requested == "auto"
    )  # recording takes as long as a few steps save
