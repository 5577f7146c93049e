"""The captured steps of one model, kept from text to text, or the reason why there are none.

Captured steps belong to one KV cache; an engine acquires both together and releases them when it
ends.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from skipopt.kernels.native import NativeKernels
    from skipopt.runtime.step_cache import StepCache


@dataclass(slots=True, eq=False)
class StepCachePool:
    """The step caches of one model.

    Attributes:
        min_uses: times a step runs eagerly before it is captured.
        unsupported_reason: why steps of this model run eagerly; None while they can be captured.
        requested: whether the runtime that was asked for captures steps.
        inductor: whether steps are compiled by `torch.compile` before they are captured.
        native: the kernels that run captured steps; None for fx or CUDA graphs.
        puts_drafts_off: see `Runtime.puts_drafts_off`.
        idle: step caches that no engine uses at present.
        all: every step cache alive, those in use included.
        generation: how often the model was found changed; older step caches are not used again.
        immediate: capture each step at its first use, whatever `min_uses` is.
        num_captured: steps captured so far.
        capture_seconds: time that capturing took so far.
    """

    min_uses: int = 0
    unsupported_reason: str | None = None
    requested: bool = True
    inductor: bool = False
    native: NativeKernels | None = None
    puts_drafts_off: bool = False
    idle: list[StepCache] = field(default_factory=list)
    all: WeakSet[StepCache] = field(default_factory=WeakSet)
    generation: int = 0
    immediate: bool = False
    num_captured: int = 0
    capture_seconds: float = 0.0

    @property
    def mean_capture_seconds(self) -> float:
        """Of the steps captured so far; 0 before the first."""
        return self.capture_seconds / max(1, self.num_captured)

    @property
    def extra_bytes(self) -> int:
        """Bytes of fused weights that captured steps read."""
        return sum(each.extra_bytes for each in self.all)

    @property
    def scratch_bytes(self) -> int:
        """Bytes that native steps compute in."""
        return sum(each.scratch_bytes for each in self.all)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the KV caches that the captured steps belong to."""
        return sum(each.cache_bytes for each in self.all)

    def acquire(self, capacity: int) -> StepCache | None:
        """The smallest idle step cache for `capacity` tokens; None if there is none.

        Idle ones that are too small are dropped then, so that they hold no memory.
        """
        fitting = [each for each in self.idle if each.capacity >= capacity]
        if not fitting:
            self.idle.clear()
            return None
        found = min(fitting, key=lambda each: each.capacity)
        self.idle.remove(found)
        return found

    def release(self, steps: StepCache) -> None:
        """Take a step cache back. Only one is kept: two engines at once are rare."""
        current = steps.generation == self.generation
        if current and not self.idle and self.unsupported_reason is None:
            self.idle.append(steps)

    def restart(self, fresh: StepCachePool) -> None:
        """Use none of the step caches again that exist now, and run steps as `fresh` would.

        The model has changed: what it could not do before may be possible now.
        """
        self.generation += 1
        self.idle.clear()
        self.min_uses = fresh.min_uses
        self.unsupported_reason = fresh.unsupported_reason
        self.native = fresh.native
        self.puts_drafts_off = fresh.puts_drafts_off

    def waits(self, uses: int) -> bool:
        """Whether a step that is used for this time (1, 2, …) is not captured yet."""
        return not self.immediate and uses <= self.min_uses

    def disable(self, reason: str) -> None:
        """From now on steps of this model run eagerly."""
        self.unsupported_reason = reason
        self.idle.clear()

    @contextmanager
    def timed_capture(self) -> Iterator[None]:
        """Count one capture and its time.

        Garbage is not collected meanwhile: a capture makes many objects that stay, and passing
        over all objects of a process takes longer than the capture.
        """
        began = time.perf_counter()
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()
            self.num_captured += 1
            self.capture_seconds += time.perf_counter() - began

    def clock_without_capture(self, clock: Callable[[], float]) -> Callable[[], float]:
        """The clock, stopped while steps are captured."""
        return lambda: clock() - self.capture_seconds

    @contextmanager
    def capture_immediately(self) -> Iterator[None]:
        """Inside, steps are captured at their first use."""
        before, self.immediate = self.immediate, True
        try:
            yield
        finally:
            self.immediate = before
