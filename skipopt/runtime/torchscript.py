"""Compiles recorded steps, by default to TorchScript: one function for sections that are alike.

The layers of a decoder do the same operations with other weights, so weights are arguments and a
layer is compiled once. A compiled step consists of operations alone: no module and no Python code
runs between those of a section.

`torch.jit.trace` and `torch.jit.script` are deprecated in torch 2.13, and not supported on Python
3.14. A function in place of `trace_section` can use another backend, as `inductor` does.
"""
# Without `from __future__ import annotations`: torch.jit.script cannot read string annotations.

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, List, Optional  # noqa: UP035  (names that torch.jit.script knows)

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning
from torch.utils._pytree import tree_unflatten

from skipopt.runtime.tracing import Operation, Recording, Value

Function = Callable[..., tuple[Tensor, ...]]
WARM_UP_RUNS = 2  # in which TorchScript specializes on shapes


@dataclass(frozen=True, slots=True)
class StepSection:
    """Operations over tensors numbered from 0, arguments first: equal for layers that are alike.

    Attributes:
        arguments: how many tensors it takes.
        returns: numbers of the tensors it returns.
    """

    operations: tuple[Operation, ...]
    arguments: int
    returns: tuple[int, ...]


CompileSection = Callable[[StepSection, Sequence[Tensor]], Function]


@dataclass(frozen=True, slots=True)
class _Call:
    """A compiled section, with the numbers of its arguments and results in the recording."""

    function: Function
    arguments: tuple[int, ...]
    results: tuple[int, ...]


class Program:
    """Call it with tensors of the recorded shapes; returns the recorded outputs."""

    def __init__(self, recording: Recording, calls: Sequence[_Call]) -> None:
        self._inputs = recording.inputs
        self._outputs = recording.outputs
        self._constants = recording.constants
        self._calls = calls

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        values = dict(self._constants)
        values.update(zip(self._inputs, inputs, strict=True))
        for call in self._calls:
            results = call.function(*[values[number] for number in call.arguments])
            values.update(zip(call.results, results, strict=True))
        return [values[number] for number in self._outputs]


class Compiler:
    """Compiles recordings, each distinct section once.

    Args:
        compile_section: compiles one section for the shapes of the tensors it is given;
            `trace_section` by default.
    """

    def __init__(self, compile_section: CompileSection | None = None) -> None:
        self._compile_section = compile_section or trace_section
        self._functions: dict[Any, Function] = {}

    @property
    def num_compiled(self) -> int:
        """Distinct sections compiled so far."""
        return len(self._functions)

    def compile(self, recording: Recording, inputs: Sequence[Tensor]) -> Program:
        """A program that does what was recorded, for any inputs of the same shapes."""
        values: dict[int, Tensor] = dict(recording.constants)
        values |= zip(recording.inputs, inputs, strict=True)
        calls = []
        for operations, results in zip(recording.sections, _results(recording), strict=True):
            arguments, section = _renumbered(operations, results)
            given = [values[number] for number in arguments]
            function = self._function(section, given)
            values |= zip(results, function(*given), strict=True)
            calls.append(_Call(function, arguments, results))
        return Program(recording, calls)

    def _function(self, section: StepSection, given: Sequence[Tensor]) -> Function:
        key = section, _argument_types(section), _shapes(given)
        if key not in self._functions:
            self._functions[key] = self._compile_section(section, given)
        return self._functions[key]


def _results(recording: Recording) -> list[tuple[int, ...]]:
    """For each section, the tensors it makes that a later section or the caller reads."""
    known = set(recording.inputs) | recording.constants.keys()
    wanted = set(recording.outputs)
    found: list[tuple[int, ...]] = []
    for operations in reversed(recording.sections):
        made = {r for op in operations for r in op.results if r is not None}
        found.append(tuple(sorted((made & wanted) - known)))
        wanted |= {x.number for op in operations for x in op.arguments if isinstance(x, Value)}
    return found[::-1]


def _renumbered(
    operations: Sequence[Operation], results: Sequence[int]
) -> tuple[tuple[int, ...], StepSection]:
    """The numbers of the tensors read from outside; the section with tensors numbered from 0."""
    arguments = _read_from_outside(operations)
    own = {number: i for i, number in enumerate(arguments)}
    for operation in operations:
        for number in operation.results:
            if number is not None:
                own.setdefault(number, len(own))
    renumbered = tuple(_with_numbers(operation, own) for operation in operations)
    return arguments, StepSection(renumbered, len(arguments), tuple(own[n] for n in results))


def _read_from_outside(operations: Sequence[Operation]) -> tuple[int, ...]:
    made: set[int] = set()
    outside: dict[int, None] = {}
    for operation in operations:
        read = (x.number for x in operation.arguments if isinstance(x, Value))
        outside |= dict.fromkeys(number for number in read if number not in made)
        made.update(r for r in operation.results if r is not None and r not in outside)
    return tuple(outside)


def _with_numbers(operation: Operation, own: dict[int, int]) -> Operation:
    arguments = tuple(
        Value(own[x.number]) if isinstance(x, Value) else x for x in operation.arguments
    )
    results = tuple(None if n is None else own[n] for n in operation.results)
    return Operation(operation.function, arguments, operation.tree_spec, results)


def _argument_types(section: StepSection) -> tuple[type, ...]:
    """Part of the key, since 1, 1.0 and True are equal but are different arguments."""
    return tuple(type(x) for operation in section.operations for x in operation.arguments)


def _shapes(given: Sequence[Tensor]) -> tuple[Any, ...]:
    """Part of the key, since TorchScript specializes on the shapes of its first runs."""
    return tuple((tuple(x.shape), x.dtype, x.layout) for x in given)


def trace_section(section: StepSection, given: Sequence[Tensor]) -> Function:
    """The section as a TorchScript function for tensors of these shapes."""

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        values: dict[int, Any] = dict(enumerate(tensors))
        for operation in section.operations:
            flat = [values[x.number] if isinstance(x, Value) else x for x in operation.arguments]
            args, kwargs = tree_unflatten(flat, operation.tree_spec)
            out = _traceable(operation.function)(*args, **kwargs)
            returned = out if isinstance(out, tuple | list) else (out,)
            for number, result in zip(operation.results, returned, strict=True):
                if number is not None:
                    values[number] = result
        return tuple(values[number] for number in section.returns)

    with warnings.catch_warnings():
        # That Python values become constants is intended here.
        warnings.simplefilter("ignore", category=TracerWarning)
        function: Function = torch.jit.trace(  # type: ignore[no-untyped-call]
            run, tuple(given), check_trace=False
        )
    for _ in range(WARM_UP_RUNS):
        function(*given)
    return function


def _traceable(function: Any) -> Any:
    """The tracer cannot record an empty list of optional numbers, but can call scripted code."""
    packed = torch.ops.mkldnn._linear_pointwise.default
    return torch.jit.script(packed_linear) if function is packed else function


def packed_linear(
    input: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    attr: str,
    scalars: List[int],  # noqa: UP006
    algorithm: str,
) -> Tensor:
    """`mkldnn._linear_pointwise` without its list of scalars, for `torch.jit.script`."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, attr, [], algorithm)
    return product
