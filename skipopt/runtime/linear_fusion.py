"""Fuses linear layers that read the same input in recorded steps: QKV, gate and up.

Starting a small matrix product costs more than computing it, so one product for three layers saves
two starts. The fused weight is a further copy, made for small weights only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from skipopt.kernels.packed_linear import PACK_HINT
from skipopt.runtime.torchscript import packed_linear
from skipopt.runtime.tracing import Operation, Recording, Value

MAX_WEIGHT_BYTES = 1 << 22  # of one layer; for larger ones only reading the weight matters
LINEAR_OPS = (torch.ops.aten.linear.default, torch.ops.mkldnn._linear_pointwise.default)


@dataclass(frozen=True, slots=True)
class FusedLinear:
    """One product for several layers; returns the output of each.

    Attributes:
        sizes: their output features.
    """

    sizes: tuple[int, ...]

    def __call__(self, input: Tensor, weight: Tensor) -> Sequence[Tensor]:
        multiply = torch.jit.script(packed_linear)
        together: Tensor = multiply(input, weight, None, "none", [], "")
        return torch.split(together, list(self.sizes), -1)


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
        replaced: dict[int, Operation] = {}  # by the id of the first operation of a group
        dropped: set[int] = set()
        for number, group in self._groups(operations, constants).items():
            replaced[id(group[0])] = self._fuse_group(number, group, constants)
            dropped |= {id(operation) for operation in group[1:]}
        kept = (operation for operation in operations if id(operation) not in dropped)
        return tuple(replaced.get(id(operation), operation) for operation in kept)

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
        _, weight, bias, *_ = (*operation.arguments, None)
        if bias is not None or not isinstance(weight, Value) or weight.number not in constants:
            return None
        found = self._unpacked.get(id(constants[weight.number]))
        if found is None or found.numel() * found.element_size() > MAX_WEIGHT_BYTES:
            return None
        return found

    def _fuse_group(
        self, number: int, group: Sequence[Operation], constants: dict[int, Tensor]
    ) -> Operation:
        weights = [w for each in group if (w := self._weight(each, constants)) is not None]
        new = min(0, *constants) - 1  # recordings number from 0 up
        constants[new] = self._fused_weight(weights)
        arguments, form = tree_flatten(((Value(number), Value(new)), {}))
        results = tuple(operation.results[0] for operation in group)
        fused = FusedLinear(tuple(len(weight) for weight in weights))
        return Operation(fused, tuple(arguments), form, results)

    def _fused_weight(self, weights: Sequence[Tensor]) -> Tensor:
        key = tuple(id(weight) for weight in weights)
        if key not in self._fused:
            together = torch.cat([weight.detach() for weight in weights])
            self.extra_bytes += together.numel() * together.element_size()
            self._fused[key] = torch.ops.mkldnn._reorder_linear_weight.default(together, PACK_HINT)
        return self._fused[key]


def _input_number(operation: Operation) -> int:
    input = operation.arguments[0]
    assert isinstance(input, Value)
    return input.number


def _mutated(operations: Iterable[Operation]) -> set[int]:
    """Numbers of the tensors that any operation writes to in place."""
    found: set[int] = set()
    for operation in operations:
        schema: Any = getattr(operation.function, "_schema", None)
        if schema is not None and schema.is_mutable:
            found |= {x.number for x in operation.arguments if isinstance(x, Value)}
    return found
