"""Strided views of a program's memory, and how views of other shapes lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# As `native/program.h` numbers them, and the bytes of each.
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int64: 2, torch.int32: 3, torch.bool: 4}
TYPE_BYTES = (4, 2, 8, 4, 1)
FLOAT32, INT64, INT32 = 0, 2, 3
SCRATCH = 0  # number of the base address of scratch memory; inputs and constants follow


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory that views lie in.

    Attributes:
        base: number of its base address.
        size: bytes, in scratch memory.
        offset: in scratch memory, once that is laid out.
        first_use, last_use: numbers of the instructions that use it, in scratch memory.
    """

    base: int = SCRATCH
    size: int = 0
    offset: int = 0
    first_use: int = -1
    last_use: int = -1


@dataclass(frozen=True, slots=True)
class View:
    """A strided view of a buffer, in elements; a constant number has no buffer.

    Attributes:
        type: number of the element type.
        expanded: set where this shape would need a copy of an expanded tensor that was not made:
            the expanded tensor.
    """

    buffer: Buffer | None
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    type: int
    offset: int = 0
    number: float = 0.0
    expanded: View | None = None

    def without(self, dim: int) -> View:
        """The view at index 0 of a dimension."""
        return self.permuted([d for d in range(len(self.sizes)) if d != dim])

    def permuted(self, dims: Sequence[int]) -> View:
        """The view of these dimensions, in this order."""
        sizes, strides = (tuple(x[d] for d in dims) for x in (self.sizes, self.strides))
        return View(self.buffer, sizes, strides, self.type, self.offset, self.number)

    def broadcast(self, sizes: Sequence[int]) -> View:
        """The view expanded to these sizes."""
        missing = len(sizes) - len(self.sizes)
        pairs = zip(self.sizes, sizes[missing:], self.strides, strict=True)
        strides = [stride if have == want else 0 for have, want, stride in pairs]
        return View(
            self.buffer,
            tuple(sizes),
            (*[0] * missing, *strides),
            self.type,
            self.offset,
            self.number,
        )

    def reshaped(self, sizes: Sequence[int]) -> View | None:
        """The view with other sizes; None where that needs a copy."""
        strides = view_strides(self.sizes, self.strides, sizes)
        if strides is None:
            return None
        return View(self.buffer, tuple(sizes), strides, self.type, self.offset, self.number)


def number_view(value: float, type: int, sizes: Sequence[int] = ()) -> View:
    """One number at every place."""
    return View(None, tuple(sizes), (0,) * len(sizes), type, number=float(value))


def view_strides(
    old: Sequence[int], strides: Sequence[int], new: Sequence[int]
) -> tuple[int, ...] | None:
    """Strides with which sizes `old` are viewed as sizes `new`; None where that needs a copy."""
    runs = _runs(old, strides)
    found = [1] * len(new)
    left, step = runs.pop() if runs else (1, 1)
    for d in range(len(new) - 1, -1, -1):
        if new[d] == 1:
            found[d] = step
            continue
        while left == 1 and runs:
            left, step = runs.pop()
        if left % new[d]:
            return None
        found[d] = step
        left //= new[d]
        step *= new[d]
    return tuple(found)


def _runs(sizes: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Length and inner stride of neighboring dimensions that lie in one run."""
    runs: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == stride * size:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    return runs
