"""Records a call of a model as a list of tensor operations, cut into sections.

Operations are recorded below the modules, so any architecture can be recorded. A call that cannot
be replayed is refused: one that reads a value on the host, or has a shape that depends on values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten

HOST_READS = ("aten::is_nonzero", "aten::item", "aten::_local_scalar_dense")


class CannotCaptureError(Exception):
    """A call cannot be replayed; the message says why. Caught by `StepCache`."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor, by its number in the recording."""

    number: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator call below autograd.

    Attributes:
        arguments: flattened; a `Value` in place of each tensor.
        form: how to unflatten them to args and kwargs.
        results: numbers of the tensors it returned; None for a result that is no tensor.
    """

    function: Any
    arguments: tuple[Any, ...]
    form: TreeSpec
    results: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """What a call did.

    Attributes:
        inputs, outputs: numbers of the call's arguments and results.
        constants: tensors that existed before the call: weights, caches, tables.
        sections: its operations in order, cut where the caller asked for it.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: dict[int, Tensor]
    sections: tuple[tuple[Operation, ...], ...]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers every tensor and records every operation. Use once."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers: dict[int, int] = {}
        self._seen: list[Tensor] = []  # kept alive, so that ids stay unique
        self._constants: dict[int, Tensor] = {}
        self._sections: list[list[Operation]] = [[]]
        self._inputs = tuple(self._number(tensor) for tensor in inputs)

    def cut(self) -> None:
        """Start a new section."""
        self._sections.append([])

    def result(self, outputs: Sequence[Tensor]) -> Recording:
        """What was recorded, for a call that returned `outputs`."""
        numbers = tuple(self._known(tensor).number for tensor in outputs)
        sections = tuple(tuple(section) for section in self._sections if section)
        return Recording(self._inputs, numbers, self._constants, sections)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        flat, form = tree_flatten((args, kwargs or {}))
        if reason := _unsupported_reason(func, flat):
            raise CannotCaptureError(reason)
        arguments = tuple(self._known(x) if isinstance(x, Tensor) else x for x in flat)
        out = func(*args, **(kwargs or {}))
        returned = out if isinstance(out, tuple | list) else (out,)
        results = tuple(self._number(x) if isinstance(x, Tensor) else None for x in returned)
        self._sections[-1].append(Operation(func, arguments, form, results))
        return out

    def _number(self, tensor: Tensor) -> int:
        """The tensor's number; in-place operations return a tensor that has one."""
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self._seen)
            self._seen.append(tensor)
        return number

    def _known(self, tensor: Tensor) -> Value:
        new = id(tensor) not in self._numbers
        number = self._number(tensor)
        if new:
            self._constants[number] = tensor
        return Value(number)


def record(
    call: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    blocks: Sequence[torch.nn.Module] = (),
) -> tuple[Recording, Sequence[Tensor]]:
    """Run `call(*inputs)`; what it did, and what it returned.

    Args:
        blocks: modules before which a new section starts, and after the last of which.

    Raises:
        CannotCaptureError: the call cannot be replayed.
    """
    recorder = Recorder(inputs)
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
    name = function._schema.name
    if name in HOST_READS or torch.Tag.data_dependent_output in function.tags:
        return f"the host reads a value ({name})"
    if torch.Tag.dynamic_output_shape in function.tags:
        # Indexing has this tag because of boolean masks; with integers its shape is known.
        masks = any(isinstance(x, Tensor) and x.dtype == torch.bool for x in arguments[1:])
        if name not in ("aten::index", "aten::index_put_") or masks:
            return f"a shape depends on values ({name})"
    return None
