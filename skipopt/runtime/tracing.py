"""Records a call of a model as a list of tensor operations, divided into sections.

Operations are recorded at the level of torch operators, below the modules, so the architecture
does not matter. A call is refused if it reads a tensor's value on the host or if a shape depends
on values, because then it cannot be replayed with other values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten

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
        arguments: flattened args and kwargs, with a `Value` in place of each tensor.
        tree_spec: unflattens the arguments to args and kwargs.
        results: numbers of the returned tensors; None for a result that is not a tensor.
    """

    function: Any
    arguments: tuple[Any, ...]
    tree_spec: TreeSpec
    results: tuple[int | None, ...]


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
        flat, tree_spec = tree_flatten((args, kwargs or {}))
        if reason := _unsupported_reason(func, flat):
            raise CannotCaptureError(reason)
        arguments = tuple(self._value(x) if isinstance(x, Tensor) else x for x in flat)
        stand_in = None if self._computes else STAND_INS.get(func._schema.name)
        out = stand_in(*args) if stand_in else func(*args, **(kwargs or {}))
        returned = out if isinstance(out, tuple | list) else (out,)
        results = tuple(self._number(x) if isinstance(x, Tensor) else None for x in returned)
        self._sections[-1].append(Operation(func, arguments, tree_spec, results))
        return out

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


def _unsupported_reason(function: Any, arguments: Sequence[Any]) -> str | None:
    """Why this operation cannot be replayed with other values; None if it can."""
    name = function._schema.name
    if name in HOST_READS or torch.Tag.data_dependent_output in function.tags:
        return f"the host reads a value ({name})"
    if torch.Tag.dynamic_output_shape in function.tags:
        # Indexing has this tag because of boolean masks; with integers its shape is known.
        masks = any(isinstance(x, Tensor) and x.dtype == torch.bool for x in arguments[1:])
        if name not in ("aten::index", "aten::index_put_") or masks:
            return f"a shape depends on values ({name})"
    return None
