"""The `Runtime` of a target: the one owner of everything mutable that its forwards use."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from skipopt.averages import StepSeconds
from skipopt.errors import ModelError
from skipopt.kernels.packed_linear import LinearKernels
from skipopt.kernels.quantized_linear import QuantizedLinearCache
from skipopt.models.experts import RoutedExperts
from skipopt.models.model_lock import ModelLock, model_lock
from skipopt.models.patch import Forward, Patch
from skipopt.models.sublayers import DecoderLayer
from skipopt.runtime.break_even import BreakEven, Preparation
from skipopt.runtime.draft_head import DraftHeads
from skipopt.runtime.fork_check import ForkCheck
from skipopt.runtime.model_state import ModelState
from skipopt.runtime.setup import RuntimeSetup, check_runtime
from skipopt.runtime.step_cache_pool import StepCachePool
from skipopt.runtime.verify_costs import VerifyCostEstimator

Clock = Callable[[], float]


class Runtime:
    """How one target's forwards are run.

    Args:
        kernels: how linear layers are computed during skipopt's own forwards.
        step_caches: captured steps with their KV caches, or why there are none.
        quantized: int8 and int4 copies of linear layers, for drafts that ask for them.
        draft_heads: output projections over part of the vocabulary, for the same.
        setup: what the runtime is made of; None if the model is never changed.
        on_notice: called with one line when steps turn out to run in a way other than asked for.
        lock: held while the model runs.

    Attributes:
        break_even: decides when drafts begin.
        verify_costs: of this model's forwards, learned from all texts of this process.
        draft_steps: the same of draft steps, by what drafts read.
        experts: those of a mixture of experts, of which drafts may run fewer.
    """

    def __init__(
        self,
        kernels: LinearKernels,
        step_caches: StepCachePool,
        quantized: QuantizedLinearCache,
        draft_heads: DraftHeads,
        setup: RuntimeSetup | None = None,
        on_notice: Callable[[str], None] | None = None,
        lock: ModelLock | None = None,
    ) -> None:
        self.lock = lock or ModelLock()
        self.kernels = kernels
        self.step_caches = step_caches
        self.quantized = quantized
        self.draft_heads = draft_heads
        self.break_even = BreakEven()
        self._forget_costs()
        self._active_patches: list[Patch] = []
        self._on_notice = on_notice
        self._notices: set[str] = set()
        self._setup = setup
        self.experts = RoutedExperts() if setup is None else setup.experts()
        self._state = None if setup is None else ModelState(setup.model)
        self._processes = ForkCheck()

    def refresh(self) -> None:
        """Make copies of weights and captured steps anew if the model has changed.

        Called before each text. What `ModelState` does not compare goes unnoticed. A changed model
        is treated like one that was just loaded.

        Raises:
            ModelError: a decoder layer was replaced.
            SkipoptError: this is a fork of a process that used several threads.
        """
        self._processes.check()
        if self._setup is None or self._state is None or not self._state.changed():
            return
        try:
            self._setup.check_layers()
        except ModelError:
            self._state.forget()
            raise
        self._renew(self._setup)

    def forward_ran(self) -> None:
        """Note that a step ran or was recorded; call it before the next text."""
        if self._state is not None:
            self._state.forward_ran()

    def _renew(self, setup: RuntimeSetup) -> None:
        fresh = setup.step_caches()
        same_kernels = fresh.native is self.draft_heads.native
        self.step_caches.restart(fresh)
        self.break_even.forget()
        self._forget_costs()
        self.kernels = setup.kernels(fresh.native)
        self.experts = setup.experts()
        if same_kernels:
            self.quantized.drop_copies()
            self.draft_heads.clear()
        else:
            self.quantized = setup.quantized(lambda: self.kernels, fresh.native)
            self.draft_heads = DraftHeads(setup.model, self.quantized, fresh.native)
        self.announce()

    @property
    def eager_only_reason(self) -> str | None:
        """Why the model can only run eagerly; None where it need not."""
        return None if self._setup is None else self._setup.eager_only_reason

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
        """Keys of the active patches that change something, outermost first.

        None if one of them has no key.
        """
        keys = tuple(patch.key for patch in self._active_patches if not patch.is_empty)
        return None if None in keys else keys

    def disable_capture(self, reason: str) -> None:
        """Run all further steps eagerly, and report the reason where capturing was asked for."""
        self.step_caches.disable(reason)
        self.notify_fallback()

    def disable_native(self, reason: str) -> None:
        """Capture further steps as fx graphs, with prepacked weights, and report the reason."""
        self.step_caches.native = None
        if self._setup is not None:
            self.step_caches.min_uses = self._setup.fallback_min_uses
            self.kernels = self._setup.packed()
        self._notify(f"runtime {self.name}: steps are not native, {reason}")

    def notify_fallback(self) -> None:
        """Report why steps are not captured although that was asked for; else do nothing."""
        reason = self.step_caches.unsupported_reason
        if reason and self.step_caches.requested:
            self._notify(f"runtime {self.name}: steps are not captured, {reason}")

    def announce(self) -> None:
        """Report in what way, other than asked for, the model's steps run."""
        if (setup := self._setup) is None:
            return
        if (only_eager := setup.eager_only_reason) is not None:
            if setup.requested != "eager":
                self._notify(f"runtime eager: {only_eager}")
            return
        self.notify_fallback()
        if setup.requested == "native" and self.name == "captured":
            reason = setup.not_native_reason()
            self._notify(f"runtime {self.name}: steps are not native, {reason}")

    def _notify(self, notice: str) -> None:
        """Report one line, once."""
        if self._on_notice and notice not in self._notices:
            self._notices.add(notice)
            self._on_notice(notice)

    def clock_without_capture(self, clock: Clock) -> Clock:
        """The clock, stopped while steps are captured: capturing is paid for once."""
        return self.step_caches.clock_without_capture(clock)

    def _forget_costs(self) -> None:
        self.verify_costs = VerifyCostEstimator()
        self.draft_steps: defaultdict[Preparation, StepSeconds] = defaultdict(StepSeconds)

    def forget(self) -> None:
        """Drop captured steps and copies for drafts, as if nothing had been decoded yet."""
        gc.collect()  # an engine that is no longer used gives its steps back first
        self.step_caches.idle.clear()
        self.quantized.clear()
        self.draft_heads.clear()
        self.break_even.forget()
        self._forget_costs()

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
    setup = RuntimeSetup(model, layers, requested)
    step_caches = setup.step_caches()
    native = step_caches.native
    # The kernels of the runtime at the time: those of a changed model are made anew.
    quantized = setup.quantized(lambda: runtime.kernels, native)
    heads = DraftHeads(model, quantized, native)
    runtime = Runtime(
        setup.kernels(native), step_caches, quantized, heads, setup, on_notice, model_lock(model)
    )
    runtime.announce()
    return runtime
