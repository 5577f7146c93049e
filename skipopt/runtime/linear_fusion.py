"""Fuses linear layers that read the same input in recorded steps: QKV, gate and up.

Starting a small matrix product costs more than computing it, so one product for three layers saves
two starts. The fused weight is a further copy, made for small weights only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skipopt.kernels.packed_linear import PACK_HINT
from skipopt.runtime.tracing import Operation, Recording, Value

MAX_WEIGHT_BYTES = 1 << 22  # of one layer; for larger ones only reading the weight matters
PACKED_LINEAR = torch.ops.mkldnn._linear_pointwise.default
LINEAR_OPS = (torch.ops.aten.linear.default, PACKED_LINEAR)
SPLIT = torch.ops.aten.split_with_sizes.default


class LinearFuser:
    """Fuses the recordings of one model; each group of weights is fused once.

    Args:
        unpacked_weights: see `LinearKernels.unpacked_weights`.

    Attributes:
        extra_bytes: memory of the fused weights.
    """

    def __init__(self, unpacked_weights: Mapping[int, Tensor]) -> None:
        self._unpacked = unpacked_weights
        self._fused: dict[tuple[int, ...], Tensor] = {}
        self.extra_bytes = 0

    @property
    def group_sizes(self) -> list[int]:
        """How many layers each fused weight stands for, in order of first use."""
        return [len(group) for group in self._fused]

    def fuse(self, recording: Recording) -> Recording:
        """A recording that does the same with fewer products, where any can be fused."""
        constants = dict(recording.constants)
        sections = tuple(self._fuse_section(each, constants) for each in recording.sections)
        return replace(recording, sections=sections, constants=constants)

    def _fuse_section(
        self, operations: Sequence[Operation], constants: dict[int, Tensor]
    ) -> tuple[Operation, ...]:
        replaced: dict[int, list[Operation]] = {}  # by the id of the first operation of a group
        dropped: set[int] = set()
        for number, group in self._groups(operations, constants).items():
            replaced[id(group[0])] = self._fuse_group(number, group, constants)
            dropped |= {id(operation) for operation in group[1:]}
        kept = (operation for operation in operations if id(operation) not in dropped)
        return tuple(each for op in kept for each in replaced.get(id(op), [op]))

    def _groups(
        self, operations: Sequence[Operation], constants: Mapping[int, Tensor]
    ) -> dict[int, list[Operation]]:
        """Two products or more on the same input, by that input's number."""
        groups: dict[int, list[Operation]] = defaultdict(list)
        for operation in operations:
            if self._weight(operation, constants) is not None:
                groups[_input_number(operation)].append(operation)
        mutated = _mutated(operations)
        return {n: group for n, group in groups.items() if len(group) > 1 and n not in mutated}

    def _weight(self, operation: Operation, constants: Mapping[int, Tensor]) -> Tensor | None:
        """The model's own weight in a product without bias that may be fused; else None."""
        if operation.function not in LINEAR_OPS:
            return None
        _, weight, bias, *_ = (*operation.args, None)
        if bias is not None or not isinstance(weight, Value) or weight.number not in constants:
            return None
        found = self._unpacked.get(id(constants[weight.number]))
        if found is None or found.numel() * found.element_size() > MAX_WEIGHT_BYTES:
            return None
        return found

    def _fuse_group(
        self, number: int, group: Sequence[Operation], constants: dict[int, Tensor]
    ) -> list[Operation]:
        """One product for the group, and its division into the output of each layer."""
        weights = [w for each in group if (w := self._weight(each, constants)) is not None]
        weight = min(0, *constants) - 2  # recordings number from 0 up
        together = weight + 1
        constants[weight] = self._fused_weight(weights)
        product: tuple[Any, ...] = (Value(number), Value(weight), None, "none", [], "")
        results = tuple(operation.results[0] for operation in group)
        sizes = [len(each) for each in weights]
        return [
            _operation(PACKED_LINEAR, product, (together,)),
            _operation(SPLIT, (Value(together), sizes, -1), results),
        ]

    def _fused_weight(self, weights: Sequence[Tensor]) -> Tensor:
        key = tuple(id(weight) for weight in weights)
        if key not in self._fused:
            together = torch.cat([weight.detach() for weight in weights])
            self.extra_bytes += together.numel() * together.element_size()
            self._fused[key] = torch.ops.mkldnn._reorder_linear_weight.default(together, PACK_HINT)
        return self._fused[key]


def _operation(function: Any, args: tuple[Any, ...], results: tuple[int | None, ...]) -> Operation:
    return Operation(function, args, {}, results)


def _input_number(operation: Operation) -> int:
    input = operation.args[0]
    assert isinstance(input, Value)
    return input.number


def _mutated(operations: Iterable[Operation]) -> set[int]:
    """Numbers of the tensors that any operation writes to in place."""
    found: set[int] = set()
    for operation in operations:
        if operation.function._schema.is_mutable:
            found.update(operation.values)
    return found
