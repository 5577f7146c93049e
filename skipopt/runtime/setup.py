"""What a model's runtime is made of: decided when it is loaded, and again when it has changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
from skipopt.models.experts import RoutedExperts
from skipopt.models.patch import Forward
from skipopt.models.sublayers import DecoderLayer, check_layers
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


def check_runtime(name: str) -> None:
    """Raise UsageError for a name that is not one of `RUNTIMES`."""
    if name not in RUNTIMES:
        raise UsageError(f"unknown runtime {name!r}", hint=f"use one of {', '.join(RUNTIMES)}")


class RuntimeSetup:
    """Kernels, quantized copies and captured steps of a model, as a runtime allows them.

    Every method answers for the model as it is at the time.

    Args:
        layers: proved when the model was loaded.
        requested: one of `RUNTIMES`.
    """

    def __init__(self, model: Any, layers: Sequence[DecoderLayer], requested: str) -> None:
        self.model = model
        self.requested = requested
        self._layers = layers
        self._excluded = _patched_by_masks(layers)

    def check_layers(self) -> None:
        """Raise ModelError if the proved layers are no longer those of the model."""
        check_layers(self.model, self._layers)

    @property
    def eager_only_reason(self) -> str | None:
        """Why the model can only run through its own modules; None where it need not."""
        return eager_only_reason(self.model)

    @property
    def fallback_min_uses(self) -> int:
        """See `StepCachePool.min_uses`; if steps turn out not to be native."""
        return MIN_USES.get(self.requested, 0)

    def packed(self) -> LinearKernels:
        """Packed weights, where a measurement shows that they are faster."""
        return choose_kernels(self.model, self._excluded)

    def kernels(self, native: NativeKernels | None) -> LinearKernels:
        """How linear layers are computed.

        Args:
            native: what runs the model's steps; None if they are not native.
        """
        packs = self.requested in PREPACKING and native is None
        return self.packed() if packs and self.eager_only_reason is None else LinearKernels()

    def quantized(
        self, kernels: Callable[[], LinearKernels], native: NativeKernels | None
    ) -> QuantizedLinearCache:
        """Quantized copies.

        Args:
            kernels: those that the runtime has when a copy is made.
        """
        if native is not None:
            return QuantizedLinearCache(
                self.model,
                self._excluded,
                lambda layer: native_product(native, layer),
                native_kernels_of(native),
            )

        def own_product(layer: nn.Linear) -> Forward:
            with kernels().patch:
                return layer.forward

        return QuantizedLinearCache(self.model, self._excluded, own_product)

    def experts(self) -> RoutedExperts:
        """The routed experts, found when they are first asked for."""
        return RoutedExperts(self.model, self._layers)

    def step_caches(self) -> StepCachePool:
        """Captured steps, or why there are none."""
        requested = self.requested
        if requested not in MIN_USES:
            return StepCachePool(
                unsupported_reason=f"runtime {requested} was asked for", requested=False
            )
        device, reason = input_device(self.model).type, self.eager_only_reason
        if reason is None and device not in CAPTURE_DEVICES:
            reason = f"steps are not captured on {device}"
        native = native_kernels() if requested in NATIVE and device == "cpu" else None
        if native is None or reason is not None or self.model.dtype not in NATIVE_TYPES:
            inductor = requested == "inductor"
            return StepCachePool(MIN_USES[requested], reason, inductor=inductor)
        # Recording takes as long as a few steps save.
        return StepCachePool(native=native, puts_drafts_off=requested == "auto")

    def not_native_reason(self) -> str:
        """Why steps that can be captured are not run on the native kernels."""
        if (device := input_device(self.model).type) != "cpu":
            return f"the model is on {device}"
        if self.model.dtype not in NATIVE_TYPES:
            return f"the model is in {str(self.model.dtype).removeprefix('torch.')}"
        return "the kernels are not installed"


def _patched_by_masks(layers: Sequence[DecoderLayer]) -> Collection[nn.Module]:
    branches = {b.module for layer in layers for kind in KINDS for b in layer.branches(kind)}
    return branches | {m for layer in layers for kind in KINDS for m in layer.branch_norms[kind]}
