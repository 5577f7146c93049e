"""The compiled kernels: products of a few rows with row-major weights, and whole recorded steps.

The library (sources in `native/`) has a plain C interface and is called through ctypes, so one
build serves every version of Python and torch. It picks the best instruction set of the machine
when it is loaded. Where it was not built, `native_kernels` returns None and torch's own products
are used.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from skipopt.errors import SkipoptError

INTERFACE = 6  # of the library, as in native/api.cpp
LIBRARY = Path(__file__).with_name("libskipopt.so")
GROUP_SIZE = 32  # inputs that share a scale and a minimum in int4
INT4_MULTIPLE = 64  # inputs of an int4 weight are a multiple of this
BLOCK_VALUES = 1 << 20  # of a weight that are quantized at a time


REBUILD = (
    "delete it and reinstall skipopt (in a checkout: `python hatch_build.py`); "
    "without it, decoding is slower"
)


class WeightFormat(IntEnum):
    """How a weight is stored, and whether rows are rounded to 8 bits (`…_ROWS`)."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2
    INT8_ROWS = 3
    INT4 = 4
    INT4_ROWS = 5


class NativeWeight(NamedTuple):
    """A weight (n, k) as the kernels read it.

    Attributes:
        data: (n, k) values; int4: (n, k / 2) bytes, each with the inputs b and b + 32 of 64.
        scales: int8: of each output.  # (n,) float32
        groups: int4: scales and minima of groups of 32 inputs.  # (2, n, k / 32) float16
        bias: (n,) float32.
        rows: of float weights: the rows of `data` and `bias` that are read, in this order; None
            for all. n is their number.  # (n,) int64
    """

    format: WeightFormat
    n: int
    k: int
    data: Tensor
    scales: Tensor | None = None
    groups: Tensor | None = None
    bias: Tensor | None = None
    rows: Tensor | None = None

    def words(self) -> list[int]:
        """As in a program's code: format, four addresses, n, k; groups and rows share a place."""
        third = self.groups if self.rows is None else self.rows
        tensors = (self.data, self.scales, third, self.bias)
        addresses = [0 if each is None else each.data_ptr() for each in tensors]
        return [self.format, *addresses, self.n, self.k]


class NativeKernels:
    """The loaded library. Everything in it runs on as many threads as torch has.

    Attributes:
        supported: instruction sets that this machine has, best first.
        instruction_set: the one in use.
    """

    def __init__(self, path: Path) -> None:
        self._library = self._open(path)
        self._declare()
        names = ctypes.create_string_buffer(256)
        self._library.skipopt_supported(names, len(names))
        self.supported: tuple[str, ...] = tuple(names.value.decode().split())
        self.instruction_set = self.supported[0]
        self._threads, self._process = 0, os.getpid()

    def _open(self, path: Path) -> ctypes.CDLL:
        """The library, if it was built from the sources that this module belongs to.

        Another one would read programs wrongly.
        """
        try:
            library = ctypes.CDLL(str(path))
            if library.skipopt_interface() == INTERFACE:
                return library
            reason = "was built from other sources"
        except OSError as error:
            reason = f"cannot be loaded: {' '.join(str(error).split())[:200]}"
        except AttributeError:
            reason = "was built from other sources"
        raise SkipoptError(f"{path} {reason}", hint=REBUILD)

    def _declare(self) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        signatures: dict[str, tuple[Sequence[type], type | None]] = {
            "skipopt_supported": ((ctypes.c_char_p, number), None),
            "skipopt_use": ((number,), None),
            "skipopt_threads": ((number, number), None),
            "skipopt_program": ((pointer, number, number), pointer),
            "skipopt_free": ((pointer,), None),
            "skipopt_run": ((pointer, pointer, pointer), None),
            "skipopt_multiply": ((pointer, number, pointer, pointer), None),
            "skipopt_quantize": ((pointer, number, number, number, pointer, pointer), None),
            "skipopt_quantize_int4": ((pointer, number, number, number, pointer, pointer), None),
            "skipopt_top": ((pointer, number, number, number, number, pointer), None),
        }
        for name, (arguments, result) in signatures.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, result

    def use(self, instruction_set: str) -> None:
        """Run on another of the supported instruction sets from now on."""
        self._library.skipopt_use(self.supported.index(instruction_set))
        self.instruction_set = instruction_set

    def multiply(self, rows: Tensor, weight: NativeWeight) -> Tensor:
        """`rows` (m, k) float32, contiguous, times the weight.  # (m, n)"""
        self._prepare()
        product = torch.empty(len(rows), weight.n)
        words = (ctypes.c_int64 * 7)(*weight.words())
        self._library.skipopt_multiply(rows.data_ptr(), len(rows), words, product.data_ptr())
        return product

    def quantize(self, weight: NativeWeight, data: Tensor, scales: Tensor) -> None:
        """Write an int8 copy of a float weight, with a scale for each output.

        Args:
            data: int8.  # (n, k)
            scales: float32.  # (n,)
        """
        self._prepare()
        sizes = (weight.format, weight.n, weight.k)
        addresses = (data.data_ptr(), scales.data_ptr())
        self._library.skipopt_quantize(weight.data.data_ptr(), *sizes, *addresses)

    def quantize_int4(self, weight: NativeWeight, data: Tensor, groups: Tensor) -> None:
        """Write an int4 copy of a float weight; `data` and `groups` as in `NativeWeight`."""
        self._prepare()
        sizes = (weight.format, weight.n, weight.k)
        addresses = (data.data_ptr(), groups.data_ptr())
        self._library.skipopt_quantize_int4(weight.data.data_ptr(), *sizes, *addresses)

    def top(self, rows: Tensor, count: int) -> list[list[int]]:
        """Places of the `count` largest values of each row, the largest first; on one thread.

        Args:
            rows: float32, each contiguous.  # (m, n)
            count: at most n.
        """
        m, n = rows.shape
        places = (ctypes.c_int64 * (m * count))()
        self._library.skipopt_top(rows.data_ptr(), m, rows.stride(0), n, count, places)
        return [places[row * count : (row + 1) * count] for row in range(m)]

    def program(self, code: Tensor, rows: int) -> int:
        """A handle of a program, for this number of rows; `free` it.

        Args:
            code: see `skipopt.runtime.native_code`.  # (words,) int64
        """
        handle: int = self._library.skipopt_program(code.data_ptr(), len(code), rows)
        return handle

    def free(self, program: int) -> None:
        """Release a program's memory."""
        self._library.skipopt_free(program)

    def run(
        self, program: int, bases: ctypes.Array[ctypes.c_void_p], seconds: Tensor | None = None
    ) -> None:
        """Run a program over these base addresses.

        Args:
            seconds: gets the time of each instruction.  # (instructions,) float64
        """
        self._prepare()
        self._library.skipopt_run(program, bases, None if seconds is None else seconds.data_ptr())

    def _prepare(self) -> None:
        """Adopt torch's number of threads; a forked process starts threads of its own."""
        threads, process = torch.get_num_threads(), os.getpid()
        if (threads, process) != (self._threads, self._process):
            self._library.skipopt_threads(threads, process != self._process)
            self._threads, self._process = threads, process


@cache
def native_kernels() -> NativeKernels | None:
    """The library, loaded once in a process; None where it was not built.

    Raises:
        SkipoptError: it cannot be loaded, or belongs to another version of skipopt.
    """
    return NativeKernels(LIBRARY) if LIBRARY.exists() else None


def float_weight(
    weight: Tensor, bias: Tensor | None = None, rows: Tensor | None = None
) -> NativeWeight:
    """The model's own weight (n, k), float32 or bfloat16, read where it is.

    Args:
        rows: the rows to read; None for all.  # int64
    """
    kind = WeightFormat.FLOAT32 if weight.dtype == torch.float32 else WeightFormat.BFLOAT16
    n, k = weight.shape
    return NativeWeight(kind, n if rows is None else len(rows), k, weight, bias=bias, rows=rows)


def int8_weight(weight: Tensor, bias: Tensor | None = None, rows: bool = False) -> NativeWeight:
    """An int8 copy with a scale for each output.

    Args:
        rows: round the rows of a product to 8 bits too.
    """
    n, k = weight.shape
    data, scales = torch.empty(n, k, dtype=torch.int8), torch.empty(n)
    values = weight.detach()
    if kernels := _quantizing_kernels(values):
        kernels.quantize(float_weight(values), data, scales)
    else:
        _quantize_int8(values, data, scales)
    kind = WeightFormat.INT8_ROWS if rows else WeightFormat.INT8
    return NativeWeight(kind, n, k, data, scales, bias=bias)


def _quantize_int8(weight: Tensor, data: Tensor, scales: Tensor) -> None:
    for part in _row_blocks(weight):
        values = weight[part].float()
        scale = scales[part].copy_(values.abs().amax(1)).div_(127).clamp_(min=1e-12)
        data[part] = (values / scale[:, None]).round_()


def int4_weight(weight: Tensor, bias: Tensor | None = None, rows: bool = False) -> NativeWeight:
    """An int4 copy: value = scale · q + minimum, q from 0 to 15, for each group of 32 inputs.

    Args:
        rows: round the rows of a product to 8 bits too.

    Raises:
        ValueError: the number of inputs is not a multiple of 64.
    """
    n, k = weight.shape
    if k % INT4_MULTIPLE:
        raise ValueError(f"int4 weights have a multiple of {INT4_MULTIPLE} inputs, not {k}")
    data = torch.empty(n, k // 2, dtype=torch.uint8)
    groups = torch.empty(2, n, k // GROUP_SIZE, dtype=torch.float16)
    values = weight.detach()
    if kernels := _quantizing_kernels(values):
        kernels.quantize_int4(float_weight(values), data, groups)
    else:
        _quantize_int4(values, data, groups)
    kind = WeightFormat.INT4_ROWS if rows else WeightFormat.INT4
    return NativeWeight(kind, n, k, data, groups=groups, bias=bias)


def _quantize_int4(weight: Tensor, data: Tensor, groups: Tensor) -> None:
    k = weight.shape[1]
    scales, minima = groups
    for part in _row_blocks(weight):
        values = weight[part].float().view(-1, k // GROUP_SIZE, GROUP_SIZE)
        low = minima[part].copy_(values.amin(-1)).float()
        scale = scales[part].copy_(((values.amax(-1) - low) / 15).clamp_(min=1e-7)).float()
        integers = (values - low[..., None]).div_(scale[..., None]).round_().clamp_(0, 15)
        pairs = integers.to(torch.uint8).view(len(values), -1, INT4_MULTIPLE)
        both = pairs[..., :GROUP_SIZE] | (pairs[..., GROUP_SIZE:] << 4)
        data[part] = both.view(len(values), -1)


def _quantizing_kernels(values: Tensor) -> NativeKernels | None:
    """The native kernels, if they read such weights."""
    readable = values.dtype in (torch.float32, torch.bfloat16) and values.is_contiguous()
    return native_kernels() if readable else None


def _row_blocks(weight: Tensor) -> Iterator[slice]:
    """Rows of a weight in blocks that stay in the cache while they are quantized."""
    n, k = weight.shape
    rows = max(1, BLOCK_VALUES // k)
    return (slice(start, start + rows) for start in range(0, n, rows))


def bytes_per_second(kernels: NativeKernels, repeats: int = 5) -> float:
    """How fast float32 weights are read in products of one row: the best of some passes."""
    weight = float_weight(torch.ones(16384, 1024))  # 67 MB: more than most caches
    row, best = torch.ones(1, weight.k), math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        kernels.multiply(row, weight)
        best = min(best, time.perf_counter() - began)
    return weight.data.numel() * weight.data.element_size() / best
