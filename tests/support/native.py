"""Native steps of small functions, and the mark of tests that need the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from skipopt.kernels.native import NativeKernels, native_kernels
from skipopt.runtime.native_step import NativeStep, Scratch, translation

ROWS = 7  # that steps are recorded with here

needs_native = pytest.mark.skipif(
    native_kernels() is None, reason="the native kernels are not built: pip install -e ."
)


def kernels() -> NativeKernels:
    """The library."""
    found = native_kernels()
    assert found is not None
    return found


def recorded(
    call: Callable[..., Sequence[Tensor]], inputs_of: Callable[[int], Sequence[Tensor]]
) -> NativeStep:
    """A native step of a function of inputs with a number of rows."""
    with torch.inference_mode():
        found = translation(call, inputs_of, [8, 64])
    return NativeStep(kernels(), found.code(), found.num_inputs, Scratch())
