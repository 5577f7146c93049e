"""A recording compiled: TorchScript by default, one function for all sections that are alike.

A decoder's layers do the same operations with other weights, so weights are arguments, and a
layer is compiled once. What is left of a step is the operations themselves: no modules, no Python
between them. Knows nothing of models.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from skipopt.runtime.scripted import packed_linear
from skipopt.runtime.tracing import Operation, Recording, Value

Function = Callable[..., tuple[Tensor, ...]]
WARM_UP = 2  # runs in which TorchScript looks at shapes before it settles


@dataclass(frozen=True, slots=True)
class Section:
    """Operations with tensors numbered anew, arguments first: equal where layers are alike."""

    operations: tuple[Operation, ...]
    arguments: int
    returns: tuple[int, ...]


MakeFunction = Callable[[Section, Sequence[Tensor]], Function]


@dataclass(frozen=True, slots=True)
class _Call:
    function: Function
    takes: tuple[int, ...]
    gives: tuple[int, ...]


class Compiler:
    """Compiles recordings; remembers sections it has met.

    Args:
        make: compiles one section for the shapes of these tensors.

    Attributes:
        compiled: how many different sections there were.
    """

    def __init__(self, make: MakeFunction | None = None) -> None:
        self._make = make or traced
        self._functions: dict[Any, Function] = {}

    @property
    def compiled(self) -> int:
        return len(self._functions)

    def compile(self, recording: Recording, inputs: Sequence[Tensor]) -> Program:
        """A program that does again what was recorded, for other inputs of the same shapes."""
        values: dict[int, Tensor] = dict(recording.constants)
        values |= zip(recording.inputs, inputs, strict=True)
        calls = []
        for operations, gives in zip(recording.sections, _wanted(recording), strict=True):
            takes, section = _renumbered(operations, gives)
            given = [values[number] for number in takes]
            key = (section, _types(section), _shapes(given))
            if key not in self._functions:
                self._functions[key] = self._make(section, given)
            function = self._functions[key]
            values |= zip(gives, function(*given), strict=True)
            calls.append(_Call(function, takes, gives))
        return Program(recording, calls)


class Program:
    """Call it with tensors of the recorded shapes; returns the recorded outputs anew."""

    def __init__(self, recording: Recording, calls: Sequence[_Call]) -> None:
        self._inputs = recording.inputs
        self._outputs = recording.outputs
        self._constants = recording.constants
        self._calls = calls

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        values = dict(self._constants)
        values.update(zip(self._inputs, inputs, strict=True))
        for call in self._calls:
            results = call.function(*[values[number] for number in call.takes])
            values.update(zip(call.gives, results, strict=True))
        return [values[number] for number in self._outputs]


def _wanted(recording: Recording) -> list[tuple[int, ...]]:
    """Of each section, what others or the caller read of what it makes."""
    wanted = set(recording.outputs)
    found: list[tuple[int, ...]] = []
    for operations in reversed(recording.sections):
        made = {r for op in operations for r in op.results if r is not None}
        read = {x.number for op in operations for x in op.arguments if isinstance(x, Value)}
        known = set(recording.inputs) | recording.constants.keys()
        found.append(tuple(sorted((made & wanted) - known)))
        wanted |= read
    return found[::-1]


def _renumbered(
    operations: Sequence[Operation], gives: Sequence[int]
) -> tuple[tuple[int, ...], Section]:
    """What the section takes from outside, by its old numbers, and the section in its own."""
    made: set[int] = set()
    takes: dict[int, None] = {}
    for operation in operations:
        read = (x.number for x in operation.arguments if isinstance(x, Value))
        takes |= dict.fromkeys(number for number in read if number not in made)
        made.update(r for r in operation.results if r is not None and r not in takes)
    own = {number: i for i, number in enumerate(takes)}
    for operation in operations:
        for number in operation.results:
            if number is not None:
                own.setdefault(number, len(own))
    renumbered = tuple(_with_numbers(operation, own) for operation in operations)
    return tuple(takes), Section(renumbered, len(takes), tuple(own[n] for n in gives))


def _with_numbers(operation: Operation, own: dict[int, int]) -> Operation:
    arguments = tuple(
        Value(own[x.number]) if isinstance(x, Value) else x for x in operation.arguments
    )
    results = tuple(None if n is None else own[n] for n in operation.results)
    return Operation(operation.function, arguments, operation.form, results)


def _types(section: Section) -> tuple[type, ...]:
    """1, 1.0 and True are equal, and yet not the same argument."""
    return tuple(type(x) for operation in section.operations for x in operation.arguments)


def _shapes(given: Sequence[Tensor]) -> tuple[Any, ...]:
    """A function serves one set of shapes: TorchScript settles on those that it met."""
    return tuple((tuple(x.shape), x.dtype, x.layout) for x in given)


def traced(section: Section, given: Sequence[Tensor]) -> Function:
    """The section as TorchScript; `given` says for which shapes."""

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        values: dict[int, Any] = dict(enumerate(tensors))
        for operation in section.operations:
            flat = [values[x.number] if isinstance(x, Value) else x for x in operation.arguments]
            args, kwargs = tree_unflatten(flat, operation.form)
            out = _scriptable(operation.function)(*args, **kwargs)
            returned = out if isinstance(out, tuple | list) else (out,)
            for number, result in zip(operation.results, returned, strict=True):
                if number is not None:
                    values[number] = result
        return tuple(values[number] for number in section.returns)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that constants are constants is meant
        function: Function = torch.jit.trace(  # type: ignore[no-untyped-call]
            run, tuple(given), check_trace=False
        )
    for _ in range(WARM_UP):
        function(*given)
    return function


def _scriptable(function: Any) -> Any:
    """The tracer cannot write an empty list of optional numbers; scripted code can."""
    packed = torch.ops.mkldnn._linear_pointwise.default
    return torch.jit.script(packed_linear) if function is packed else function
