"""Products that read the same input become one: queries, keys and values; gate and up.

A small matrix product costs more to begin than to do, so of three on one input, two beginnings are
spared. Works on recordings and knows nothing of models; only small weights are worth a further
copy.
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
from skipopt.runtime.scripted import packed_linear
from skipopt.runtime.tracing import Operation, Recording, Value

LARGEST = 1 << 22  # bytes of a weight: beyond it, reading is all that counts

PRODUCTS = (torch.ops.aten.linear.default, torch.ops.mkldnn._linear_pointwise.default)


@dataclass(frozen=True, slots=True)
class FusedLinear:
    """Several products in one; returns that of each.

    Attributes:
        sizes: their output features.
    """

    sizes: tuple[int, ...]

    def __call__(self, input: Tensor, weight: Tensor) -> Sequence[Tensor]:
        multiply = torch.jit.script(packed_linear)
        together: Tensor = multiply(input, weight, None, "none", [], "")
        return torch.split(together, list(self.sizes), -1)


class LinearFuser:
    """Fuses recordings of one model; what it joins once, it does not join again.

    Args:
        sources: the weights that are read packed; see `Kernels`.

    Attributes:
        extra_bytes: memory of the joined weights.
    """

    def __init__(self, sources: Mapping[int, Tensor]) -> None:
        self._sources = sources
        self._joined: dict[tuple[int, ...], Tensor] = {}
        self.extra_bytes = 0

    def fuse(self, recording: Recording) -> Recording:
        """The same with fewer operations; the recording itself where there is nothing to join."""
        constants = dict(recording.constants)
        sections = tuple(self._section(section, constants) for section in recording.sections)
        return replace(recording, sections=sections, constants=constants)

    def _section(
        self, operations: Sequence[Operation], constants: dict[int, Tensor]
    ) -> tuple[Operation, ...]:
        groups: dict[int, list[Operation]] = defaultdict(list)
        for operation in operations:
            if self._weight(operation, constants) is not None:
                groups[_input(operation)].append(operation)
        changed = _changed_in_place(operations)
        first: dict[int, Operation] = {}
        gone: set[int] = set()
        for number, alike in groups.items():
            if len(alike) > 1 and number not in changed:
                first[id(alike[0])] = self._fused(number, alike, constants)
                gone |= {id(operation) for operation in alike}
        return tuple(
            first.get(id(operation), operation)
            for operation in operations
            if id(operation) in first or id(operation) not in gone
        )

    def _weight(self, operation: Operation, constants: dict[int, Tensor]) -> Tensor | None:
        """The weight of a product without bias that may be joined with others."""
        if operation.function not in PRODUCTS:
            return None
        _, given, bias, *_ = (*operation.arguments, None)
        if bias is not None or not isinstance(given, Value) or given.number not in constants:
            return None
        found = self._sources.get(id(constants[given.number]))
        if found is None or found.numel() * found.element_size() > LARGEST:
            return None
        return found

    def _fused(
        self, number: int, alike: Sequence[Operation], constants: dict[int, Tensor]
    ) -> Operation:
        weights = [self._weight(operation, constants) for operation in alike]
        parts = [weight for weight in weights if weight is not None]
        new = min(0, *constants) - 1  # recordings count from 0 on
        constants[new] = self._join(parts)
        arguments, form = tree_flatten(((Value(number), Value(new)), {}))
        results = tuple(operation.results[0] for operation in alike)
        return Operation(
            FusedLinear(tuple(len(each) for each in parts)), tuple(arguments), form, results
        )

    def _join(self, weights: Sequence[Tensor]) -> Tensor:
        key = tuple(id(weight) for weight in weights)
        if key not in self._joined:
            together = torch.cat([weight.detach() for weight in weights])
            self.extra_bytes += together.numel() * together.element_size()
            self._joined[key] = torch.ops.mkldnn._reorder_linear_weight.default(
                together, PACK_HINT
            )
        return self._joined[key]


def _input(operation: Operation) -> int:
    given = operation.arguments[0]
    assert isinstance(given, Value)
    return given.number


def _changed_in_place(operations: Iterable[Operation]) -> set[int]:
    """Numbers of what any operation writes into."""
    found: set[int] = set()
    for operation in operations:
        schema: Any = getattr(operation.function, "_schema", None)
        if schema is not None and schema.is_mutable:
            found |= {x.number for x in operation.arguments if isinstance(x, Value)}
    return found
