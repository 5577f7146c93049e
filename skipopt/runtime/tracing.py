"""One call of a model as the list of tensor operations it came to, cut into sections.

The operations are taken below the modules, so this needs no knowledge of any architecture. What
cannot be replayed (a value read by the host, a shape that depends on values) is refused. Knows
nothing of steps or caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten

READS_VALUES = ("aten::is_nonzero", "aten::item", "aten::_local_scalar_dense")


class CannotCaptureError(Exception):
    """Why a step cannot be captured, in words for people. Never reaches a user as an error."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor by its number in the recording."""

    number: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One call below autograd: tensors among its arguments are `Value`s.

    Attributes:
        results: numbers of the tensors it returned; None for what was no tensor.
    """

    function: Any
    arguments: tuple[Any, ...]
    form: TreeSpec
    results: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """What a call did.

    Attributes:
        inputs, outputs: numbers of what went in and what came out.
        constants: tensors that were there before: weights, caches, tables.
        sections: its operations in order, cut where the caller asked for it.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: dict[int, Tensor]
    sections: tuple[tuple[Operation, ...], ...]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers every tensor it sees, and notes every operation. Use once."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers: dict[int, int] = {}
        self._seen: list[Tensor] = []  # alive, so that no id is given twice
        self._constants: dict[int, Tensor] = {}
        self._sections: list[list[Operation]] = [[]]
        self._inputs = tuple(self._number(tensor) for tensor in inputs)

    def cut(self) -> None:
        """What comes next belongs to a new section."""
        self._sections.append([])

    def result(self, outputs: Sequence[Tensor]) -> Recording:
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
        if reason := _obstacle(func, flat):
            raise CannotCaptureError(reason)
        arguments = tuple(self._known(x) if isinstance(x, Tensor) else x for x in flat)
        out = func(*args, **(kwargs or {}))
        returned = out if isinstance(out, tuple | list) else (out,)
        results = tuple(self._number(x) if isinstance(x, Tensor) else None for x in returned)
        self._sections[-1].append(Operation(func, arguments, form, results))
        return out

    def _number(self, tensor: Tensor) -> int:
        """What was seen before keeps its number: in-place operations return their argument."""
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
    borders: Sequence[torch.nn.Module] = (),
) -> tuple[Recording, Sequence[Tensor]]:
    """Run `call(*inputs)` and note what it did, and what it returned.

    Args:
        borders: modules before which the recording is cut; it is cut after the last of them too.

    Raises:
        CannotCaptureError: it does what cannot be replayed.
    """
    recorder = Recorder(inputs)
    hooks = [each.register_forward_pre_hook(lambda *_: recorder.cut()) for each in borders]
    hooks += [each.register_forward_hook(lambda *_: recorder.cut()) for each in borders[-1:]]
    try:
        with recorder:
            outputs = call(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.result(outputs), outputs


def _obstacle(function: Any, arguments: Sequence[Any]) -> str | None:
    name = function._schema.name
    if name in READS_VALUES or torch.Tag.data_dependent_output in function.tags:
        return f"the host reads a value ({name})"
    if torch.Tag.dynamic_output_shape in function.tags:
        # Indexing has the tag for the sake of masks only.
        masks = any(isinstance(x, Tensor) and x.dtype == torch.bool for x in arguments[1:])
        if name not in ("aten::index", "aten::index_put_") or masks:
            return f"a shape depends on values ({name})"
    return None
