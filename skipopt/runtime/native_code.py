"""Instructions of the native kernels, and their code: numbers that `native/api.cpp` reads."""

from __future__ import annotations

import struct
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch
from torch import Tensor

from skipopt.kernels.native import NativeWeight, WeightFormat
from skipopt.runtime.native_views import SCRATCH, TYPE_BYTES, Buffer, View

ALIGNMENT = 64  # bytes
ROWS = -1  # stands in the code for the number of rows
EIGHT_BIT_ROWS = (WeightFormat.INT8_ROWS, WeightFormat.INT4_ROWS)


class Code(IntEnum):
    """What an instruction does. Its first operand is the result."""

    POINTWISE = 1
    REDUCE = 2
    LINEAR = 3
    MATMUL = 4
    ATTENTION = 5
    INDEX_COPY = 6
    INDEX_SELECT = 7
    LARGEST = 8
    SOFTMAX = 9


class Function(IntEnum):
    """Functions of single elements, by the number of their operands."""

    COPY = 0
    NEG = 1
    RSQRT = 2
    SQRT = 3
    EXP = 4
    LOG = 5
    SIGMOID = 6
    TANH = 7
    SILU = 8
    GELU = 9
    GELU_TANH = 10
    RELU = 11
    COS = 12
    SIN = 13
    RECIPROCAL = 14
    ABS = 15
    NOT = 16
    ADD = 32
    SUB = 33
    MUL = 34
    DIV = 35
    POW = 36
    MAXIMUM = 37
    MINIMUM = 38
    LE = 39
    LT = 40
    GE = 41
    GT = 42
    EQ = 43
    NE = 44
    AND = 45
    OR = 46
    FLOOR_DIV = 47
    WHERE = 64


class Reduction(IntEnum):
    """Over the last dimensions."""

    SUM = 0
    MEAN = 1
    AMAX = 2
    AMIN = 3
    LOGSUMEXP = 4


@dataclass(slots=True)
class Instruction:
    """One instruction.

    Attributes:
        operands: the result first; of `LINEAR` the results of all weights, then the rows.
        function: a `Function` or `Reduction`.
        reduced: number of last dimensions that are reduced.
        dim: of an index.
        scale: of attention scores.
        weights: of `LINEAR`.
    """

    code: Code
    operands: list[View]
    function: int = 0
    reduced: int = 0
    dim: int = 0
    scale: float = 0.0
    weights: list[NativeWeight] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NativeCode:
    """A step as code.

    Attributes:
        words: for `NativeKernels.program`.  # (words,) int64
        scratch_bytes: scratch memory that it needs.
        constants: tensors whose addresses follow those of the inputs among the bases.
        outputs: each is the whole of a buffer of its own, whose addresses follow the constants'.
        rows: the size that stands for the number of rows in `outputs`.
        weights: that the products read.
        labels: what each instruction does.
    """

    words: Tensor
    scratch_bytes: int
    constants: tuple[Tensor, ...]
    outputs: tuple[View, ...]
    rows: int
    weights: tuple[NativeWeight, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Translation:
    """The instructions of a step, from which code is written for some of what it returns.

    Attributes:
        outputs: what it returns: each the whole of a buffer of its own in scratch memory.
        constants: tensors whose addresses follow those of the inputs.
        num_inputs: tensors that the step takes.
        rows: the size that stands for the number of rows.
    """

    instructions: Sequence[Instruction]
    outputs: Sequence[View]
    constants: tuple[Tensor, ...]
    num_inputs: int
    rows: int

    def code(
        self, dropped: int = 0, copies: Mapping[int, NativeWeight] | None = None
    ) -> NativeCode:
        """Lay out scratch memory and write the code.

        Args:
            dropped: how many of the last outputs are not returned.
            copies: read instead of weights of the same shape, by the addresses of these.
        """
        outputs = tuple(self.outputs[: len(self.outputs) - dropped])
        steps = _needed(self.instructions, outputs)
        if copies:
            steps = [each for step in steps for each in _with_copies(step, copies)]
        buffers = [view.buffer for view in outputs if view.buffer is not None]
        for number, buffer in enumerate(buffers, 1 + self.num_inputs + len(self.constants)):
            buffer.base, buffer.offset = number, 0
        scratch_bytes = _lay_out(steps)
        words = [word for step in steps for word in _encode(step, self.rows)]
        for buffer in buffers:
            buffer.base = SCRATCH
        weights = tuple(weight for step in steps for weight in step.weights)
        labels = tuple(_label(step) for step in steps)
        code = torch.frombuffer(array("q", words), dtype=torch.int64)
        return NativeCode(code, scratch_bytes, self.constants, outputs, self.rows, weights, labels)


def _needed(instructions: Sequence[Instruction], outputs: Sequence[View]) -> list[Instruction]:
    """Those that the outputs depend on, and those that write to memory that stays."""
    needed, read = [], {id(view.buffer) for view in outputs}
    for step in reversed(instructions):
        results = [view.buffer for view in step.operands[: max(1, len(step.weights))]]
        if any(id(each) in read or (each and each.base != SCRATCH) for each in results):
            needed.append(step)
            read |= {id(view.buffer) for view in step.operands}
    return needed[::-1]


def _with_copies(step: Instruction, copies: Mapping[int, NativeWeight]) -> Iterator[Instruction]:
    """The instruction with other weights; two where rows are rounded to 8 bits for some only."""
    weights = [_copy_of(weight, copies) for weight in step.weights]
    rounded = [weight.format in EIGHT_BIT_ROWS for weight in weights]
    if not any(rounded) or all(rounded):
        yield replace(step, weights=weights)
        return
    for kind in (False, True):
        chosen = [i for i, each in enumerate(rounded) if each == kind]
        operands = [step.operands[i] for i in (*chosen, -1)]
        yield replace(step, operands=operands, weights=[weights[i] for i in chosen])


def _copy_of(weight: NativeWeight, copies: Mapping[int, NativeWeight]) -> NativeWeight:
    copy = copies.get(weight.data.data_ptr()) if weight.rows is None else None
    same = copy is not None and (copy.n, copy.k) == (weight.n, weight.k)
    return copy if copy is not None and same else weight


def _label(step: Instruction) -> str:
    name = step.code.name.lower()
    if step.code == Code.LINEAR:
        outputs = " + ".join(str(weight.n) for weight in step.weights)
        return f"{name} {step.weights[0].k} to {outputs}, {step.weights[0].format.name.lower()}"
    kinds: dict[Code, type[IntEnum]] = {Code.POINTWISE: Function, Code.REDUCE: Reduction}
    return f"{name} {kinds[step.code](step.function).name.lower()}" if step.code in kinds else name


def _encode(step: Instruction, rows: int) -> list[int]:
    words = [step.code, step.function, step.reduced, step.dim, _bits(step.scale)]
    words += [len(step.operands), len(step.weights)]
    for operand in step.operands:
        words += _encode_view(operand, rows)
    for weight in step.weights:
        words += weight.words()
    return words


def _encode_view(view: View, rows: int) -> list[int]:
    if view.buffer is None:
        return [-1, _bits(view.number)]
    offset = view.buffer.offset + view.offset * TYPE_BYTES[view.type]
    words = [view.buffer.base, offset, view.type, len(view.sizes)]
    for size, stride in zip(view.sizes, view.strides, strict=True):
        words += [ROWS if size == rows else size, stride]
    return words


def _bits(number: float) -> int:
    bits: int = struct.unpack("q", struct.pack("d", number))[0]
    return bits


def _lay_out(instructions: Sequence[Instruction]) -> int:
    """Give scratch buffers their offsets; returns the bytes used.

    A place is used again after the last use of its buffer, by one of the same size.
    """
    top = 0
    free: dict[int, list[int]] = defaultdict(list)  # offsets by size
    ended = sorted(_scratch_buffers(instructions), key=lambda each: each.last_use)
    done = 0
    for buffer in sorted(ended, key=lambda each: each.first_use):
        while ended[done].last_use < buffer.first_use:
            free[ended[done].size].append(ended[done].offset)
            done += 1
        if free[buffer.size]:
            buffer.offset = free[buffer.size].pop()
        else:
            buffer.offset, top = top, top + buffer.size
    return top


def _scratch_buffers(instructions: Sequence[Instruction]) -> list[Buffer]:
    """Buffers in scratch memory, with the uses of each noted."""
    found: dict[int, Buffer] = {}
    for number, step in enumerate(instructions):
        for view in step.operands:
            buffer = view.buffer
            if buffer is not None and buffer.base == SCRATCH:
                if id(buffer) not in found:
                    found[id(buffer)], buffer.first_use = buffer, number
                buffer.last_use = number
    return list(found.values())
