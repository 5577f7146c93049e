"""Records a call of a model as a list of tensor operations, divided into sections.

Operations are recorded at the level of torch operators, below the modules, so the architecture
does not matter. A call is refused if it reads a tensor's value on the host or if a shape depends
on values, because then it cannot be replayed with other values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

INDEXING = ("aten::index", "aten::index_put_")
HOST_READS = ("aten::is_nonzero", "aten::item", "aten::_local_scalar_dense")


def _product(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_zeros(*x.shape[:-1], len(weight))


def _product_of_rows(x: Tensor, weight: Tensor, rows: Tensor, *_: Any) -> Tensor:
    return x.new_zeros(*x.shape[:-1], len(rows))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return query.new_zeros(*query.shape[:-1], value.shape[-1])


# Results in the right shape of operations that take long.
STAND_INS: Mapping[str, Callable[..., Tensor]] = {
    "aten::linear": _product,
    "skipopt::quantized_linear": _product,
    "skipopt::linear_rows": _product_of_rows,
    "aten::scaled_dot_product_attention": _attention,
}


class CannotCaptureError(Exception):
    """A call cannot be captured for replay; the message is the reason. Caught by `StepCache`."""


@dataclass(frozen=True, slots=True)
class Value:
    """Reference to a tensor by its number in the recording."""

    number: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator call, recorded below autograd.

    Attributes:
        args, kwargs: its arguments, with a `Value` in place of each tensor, in lists too.
        results: numbers of the returned tensors; None for a result that is not a tensor.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[int | None, ...]

    def with_arguments(self, change: Callable[[Any], Any]) -> tuple[tuple[Any, ...], Any]:
        """args and kwargs with each number, tensor or other single argument changed."""
        args, kwargs = map_aggregate((self.args, dict(self.kwargs)), change)
        return args, kwargs

    @property
    def values(self) -> list[int]:
        """The numbers of all tensors among the arguments."""
        found: list[int] = []

        def collect(argument: Any) -> None:
            if isinstance(argument, Value):
                found.append(argument.number)

        self.with_arguments(collect)
        return found


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded call.

    Attributes:
        inputs, outputs: numbers of the tensors that the call took and returned.
        constants: other tensors that existed before the call, by number: weights, caches, tables.
        sections: the operations in order, divided where `cut` was called.
        layouts: sizes and type of each tensor, by number.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: dict[int, Tensor]
    sections: tuple[tuple[Operation, ...], ...]
    layouts: dict[int, tuple[tuple[int, ...], torch.dtype]]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers every tensor and records every operation. Use once.

    Args:
        computes: whether products and attention are computed; else they return zeros, which takes
            less time and is enough where only shapes matter.
    """

    def __init__(self, inputs: Sequence[Tensor], computes: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._computes = computes
        self._numbers: dict[int, int] = {}
        self._seen: list[Tensor] = []  # kept alive, so that ids stay unique
        self._constants: dict[int, Tensor] = {}
        self._sections: list[list[Operation]] = [[]]
        self._inputs = tuple(self._number(tensor) for tensor in inputs)

    def cut(self) -> None:
        """Start a new section."""
        self._sections.append([])

    def result(self, outputs: Sequence[Tensor]) -> Recording:
        """The recording of a call that returned `outputs`."""
        numbers = tuple(self._value(tensor).number for tensor in outputs)
        sections = tuple(tuple(section) for section in self._sections if section)
        layouts = {n: (tuple(each.shape), each.dtype) for n, each in enumerate(self._seen)}
        return Recording(self._inputs, numbers, self._constants, sections, layouts)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if reason := _unsupported_reason(func, args):
            raise CannotCaptureError(reason)
        given = map_aggregate((args, kwargs), self._recorded)
        stand_in = None if self._computes else STAND_INS.get(func._schema.name)
        out = stand_in(*args) if stand_in else func(*args, **kwargs)
        returned = out if isinstance(out, tuple | list) else (out,)
        results = tuple(self._number(x) if isinstance(x, Tensor) else None for x in returned)
        self._sections[-1].append(Operation(func, *given, results))
        return out

    def _recorded(self, argument: Any) -> Any:
        return self._value(argument) if isinstance(argument, Tensor) else argument

    def _number(self, tensor: Tensor) -> int:
        """The tensor's number, new if it has none (results of in-place operations have one)."""
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self._seen)
            self._seen.append(tensor)
        return number

    def _value(self, tensor: Tensor) -> Value:
        """A reference to the tensor; one without a number becomes a constant."""
        new = id(tensor) not in self._numbers
        number = self._number(tensor)
        if new:
            self._constants[number] = tensor
        return Value(number)


def record(
    call: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    blocks: Sequence[torch.nn.Module] = (),
    computes: bool = True,
) -> tuple[Recording, Sequence[Tensor]]:
    """Run `call(*inputs)`; returns its recording and its outputs.

    Args:
        blocks: a new section starts before each of these modules and after the last one.
        computes: see `Recorder`; if not, the outputs are meaningless.

    Raises:
        CannotCaptureError: the call cannot be replayed.
    """
    recorder = Recorder(inputs, computes)
    hooks = [each.register_forward_pre_hook(lambda *_: recorder.cut()) for each in blocks]
    hooks += [each.register_forward_hook(lambda *_: recorder.cut()) for each in blocks[-1:]]
    try:
        with recorder:
            outputs = call(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.result(outputs), outputs


def _unsupported_reason(function: Any, args: Sequence[Any]) -> str | None:
    """Why this operation cannot be replayed with other values; None if it can."""
    reason = _reason_of_function(function)
    # Indexing may have a shape that depends on values because of boolean masks.
    by_integers = function._schema.name in INDEXING and not any(
        isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1]
    )
    return None if by_integers else reason


@cache
def _reason_of_function(function: Any) -> str | None:
    """The same for any arguments. Kept, because torch makes a function's tags anew each time."""
    name = function._schema.name
    if name in HOST_READS or torch.Tag.data_dependent_output in function.tags:
        return f"the host reads a value ({name})"
    if torch.Tag.dynamic_output_shape in function.tags:
        return f"a shape depends on values ({name})"
    return None
