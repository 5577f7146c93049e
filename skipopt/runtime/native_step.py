"""A recorded step that the native kernels run, for any number of rows."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skipopt.kernels.native import NativeKernels
from skipopt.runtime.native_code import ALIGNMENT, NativeCode, Translation
from skipopt.runtime.native_operations import HANDLERS
from skipopt.runtime.native_translator import MAX_ROWS, Translator, usable_rows
from skipopt.runtime.native_views import TYPE_BYTES, TYPES, View
from skipopt.runtime.tracing import record

DTYPES = {number: dtype for dtype, number in TYPES.items()}
Call = Callable[..., Sequence[Tensor]]


class Scratch:
    """Scratch memory that steps share, since they never run at the same time."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)

    def require(self, size: int) -> None:
        """Grow to at least this many bytes."""
        if len(self.memory) < size:
            self.memory = torch.zeros(size, dtype=torch.uint8)


class NativeStep:
    """Call it with the inputs of a step of any number of rows; returns the outputs.

    Args:
        inputs: number of tensors that the step takes.
    """

    def __init__(
        self, kernels: NativeKernels, code: NativeCode, inputs: int, scratch: Scratch
    ) -> None:
        self._kernels = kernels
        self._code = code
        self._scratch = scratch
        self._programs: dict[int, int] = {}
        self._first_output = 1 + inputs + len(code.constants)
        addresses = [0] * (1 + inputs) + [each.data_ptr() for each in code.constants]
        addresses += [0] * len(code.outputs)
        self._bases = (ctypes.c_void_p * len(addresses))(*addresses)

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory that it computes in."""
        return self._code.scratch_bytes

    def __call__(self, *given: Tensor) -> list[Tensor]:
        return self._run(given, None)

    def timed(self, *given: Tensor) -> list[tuple[str, float]]:
        """Run it; what each instruction does, and its seconds."""
        seconds = torch.zeros(len(self._code.labels), dtype=torch.float64)
        self._run(given, seconds)
        return list(zip(self._code.labels, seconds.tolist(), strict=True))

    def _run(self, given: Sequence[Tensor], seconds: Tensor | None) -> list[Tensor]:
        rows = len(given[0])
        self._scratch.require(self.scratch_bytes)
        self._bases[0] = self._scratch.memory.data_ptr()
        inputs = [each.contiguous() for each in given]
        for i, each in enumerate(inputs):
            self._bases[1 + i] = each.data_ptr()
        outputs = [self._output(view, rows) for view in self._code.outputs]
        for i, output in enumerate(outputs):
            self._bases[self._first_output + i] = output.data_ptr()
        self._kernels.run(self._program(rows), self._bases, seconds)
        return outputs

    def _program(self, rows: int) -> int:
        if rows not in self._programs:
            program = self._kernels.program(self._code.words, rows)
            weakref.finalize(self, self._kernels.free, program)
            self._programs[rows] = program
        return self._programs[rows]

    def _output(self, view: View, rows: int) -> Tensor:
        """Memory for an output of so many rows."""
        sizes = [rows if size == self._code.rows else size for size in view.sizes]
        count, dtype = math.prod(sizes), DTYPES[view.type]
        # The kernels may read a vector that begins at the last element.
        return torch.empty(count + ALIGNMENT // TYPE_BYTES[view.type], dtype=dtype)[:count].view(
            sizes
        )


def translation(
    call: Call, inputs_of: Callable[[int], Sequence[Tensor]], sizes: Sequence[int]
) -> Translation:
    """Record a call and translate it.

    Args:
        call: a step as a function of tensors, for any number of rows.
        inputs_of: makes inputs of so many rows.
        sizes: sizes of the model and the cache, none of which the rows may be mistaken for.

    Raises:
        CannotCaptureError: it does what the native kernels cannot.
    """
    rows = usable_rows(sizes)
    inputs = inputs_of(rows)
    recording, _ = record(call, inputs, computes=False)
    return Translator(recording, inputs, rows, HANDLERS).translate()


__all__ = ["MAX_ROWS", "NativeStep", "Scratch", "translation"]
