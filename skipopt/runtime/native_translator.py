"""Translates recorded steps into code of the native kernels.

Views are worked out here, once, so what is left to run is arithmetic over addresses. A step is
recorded with a number of rows that divides no other size of the model; the rows are known by it,
and the code serves any number of rows up to `MAX_ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx.node import map_aggregate

from skipopt.runtime.native_code import (
    ALIGNMENT,
    Code,
    Function,
    Instruction,
    Translation,
)
from skipopt.runtime.native_views import SCRATCH, TYPE_BYTES, TYPES, Buffer, View, number_view
from skipopt.runtime.tracing import CannotCaptureError, Operation, Recording, Value

MAX_ROWS = 64
PLAIN_TENSORS = (Tensor, nn.Parameter, nn.Buffer)

# Numbers of arguments that are weights, which products read by themselves.
WEIGHT_ARGUMENTS = {
    "linear": range(1, 3),
    "quantized_linear": range(1, 5),
    "linear_rows": range(1, 4),
}


class Results:
    """What an operation returns: sizes and element types of each tensor."""

    def __init__(self, operation: Operation, recording: Recording) -> None:
        layouts = [recording.layouts[n] for n in operation.results if n is not None]
        if any(dtype not in TYPES for _, dtype in layouts):
            raise cannot(operation)
        self.all_sizes = [sizes for sizes, _ in layouts]
        self.all_types = [TYPES[dtype] for _, dtype in layouts]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the first."""
        return self.all_sizes[0]

    @property
    def type(self) -> int:
        """Of the first."""
        return self.all_types[0]


Handler = Callable[..., "View | list[View] | None"]


class Translator:
    """Translates one recording. Operations are in `native_operations`.

    Args:
        inputs: what was recorded was called with.
        rows: the number of rows it was recorded with.
        handlers: by name of an ATen operation, without its overload.
    """

    def __init__(
        self,
        recording: Recording,
        inputs: Sequence[Tensor],
        rows: int,
        handlers: dict[str, Handler],
    ) -> None:
        self.rows = rows
        self.instructions: list[Instruction] = []
        self._recording = recording
        self._handlers = handlers
        self._num_inputs = len(inputs)
        self._constants: dict[int, View] = {}
        self._constant_tensors: list[Tensor] = []
        self._values: dict[int, View] = {}
        self._stale: set[int] = set()
        for i, (number, tensor) in enumerate(zip(recording.inputs, inputs, strict=True)):
            self._values[number] = _view_of(tensor, Buffer(base=1 + i))

    def translate(self) -> Translation:
        """The instructions of the whole recording.

        Raises:
            CannotCaptureError: an operation that the native kernels do not have.
        """
        for section in self._recording.sections:
            for operation in section:
                self._add(operation)
        outputs: list[View] = []
        for number in self._recording.outputs:
            taken = {id(view.buffer) for view in outputs}
            outputs.append(self._output(self.value(number), taken))
        constants = tuple(self._constant_tensors)
        return Translation(self.instructions, outputs, constants, self._num_inputs, self.rows)

    def value(self, number: int) -> View:
        """The view of a recorded tensor."""
        if number in self._stale:
            raise CannotCaptureError("a view is read after its tensor was changed in place")
        if number not in self._values:
            self._values[number] = self._constant(self.constant_tensor(number))
        return self._values[number]

    def constant_tensor(self, number: int) -> Tensor:
        """A tensor that existed before the call."""
        if number not in self._recording.constants:
            raise CannotCaptureError("a product with weights that are computed")
        return self._recording.constants[number]

    def transposed_constant(self, x: View) -> Tensor | None:
        """The contiguous matrix that a view is the transpose of, if that is a constant."""
        base = 0 if x.buffer is None else x.buffer.base - 1 - self._num_inputs
        if x.buffer is None or base < 0 or x.expanded is not None or x.offset:
            return None
        tensor = self._constant_tensors[base]
        transposed = x.sizes == tuple(tensor.shape)[::-1] and x.strides == tensor.stride()[::-1]
        return tensor if tensor.ndim == 2 and tensor.is_contiguous() and transposed else None

    def new(self, sizes: Sequence[int], type: int, order: Sequence[int] | None = None) -> View:
        """A contiguous view of new scratch memory, with room for `MAX_ROWS` rows.

        Args:
            order: dimensions from the outermost in memory to the innermost; as they are if None.
        """
        strides, step = [0] * len(sizes), 1
        for d in reversed(range(len(sizes)) if order is None else order):
            strides[d] = step
            step *= MAX_ROWS if sizes[d] == self.rows else sizes[d]
        # One unit more than needed: the last vector may be read past the end.
        size = (step * TYPE_BYTES[type] // ALIGNMENT + 2) * ALIGNMENT
        return View(Buffer(size=size), tuple(sizes), tuple(strides), type)

    def emit(self, code: Code, operands: Sequence[View], **more: Any) -> None:
        """Add an instruction; only pointwise ones read numbers that are not in memory."""
        if code != Code.POINTWISE:
            operands = [x if x.buffer else self.copied(x) for x in operands]
        self.instructions.append(Instruction(code, list(operands), **more))

    def pointwise(self, function: Function, out: View, *inputs: View) -> View:
        """Add a function of single elements, its inputs broadcast to `out`, which is returned."""
        operands = [self.real(x) for x in inputs]
        broadcast = [x.broadcast(out.sizes) if x.buffer else x for x in operands]
        self.emit(Code.POINTWISE, [out, *broadcast], function=function)
        return out

    def real(self, x: View) -> View:
        """The view, copied if that was put off."""
        if x.expanded is None:
            return x
        out = self.new(x.sizes, x.type)
        target = out.reshaped(x.expanded.sizes)
        if target is None:
            raise CannotCaptureError("an expanded tensor in a shape of other dimensions")
        self.pointwise(Function.COPY, target, x.expanded)
        return out

    def copied(self, x: View) -> View:
        """A contiguous copy."""
        return self.pointwise(Function.COPY, self.new(x.sizes, x.type), x)

    def reshaped(self, x: View, sizes: Sequence[int]) -> View:
        """The view with other sizes, copied where it must be."""
        if any(size != self.rows and size % self.rows == 0 for size in sizes if size):
            raise CannotCaptureError(f"rows cannot be told apart in the shape {tuple(sizes)}")
        if x.buffer is None:
            return number_view(x.number, x.type, sizes)
        x = self.real(x)
        found = x.reshaped(sizes)
        if found is None and 0 in x.strides:
            # Keys and values that several heads share: attention reads them where they are.
            return View(x.buffer, tuple(sizes), (0,) * len(sizes), x.type, x.offset, expanded=x)
        if found is None:
            found = self.copied(x).reshaped(sizes)
        if found is None:
            raise CannotCaptureError(f"rows cannot be told apart in the shape {tuple(sizes)}")
        return found

    def _constant(self, tensor: Tensor) -> View:
        if tensor.device.type != "cpu" or type(tensor) not in PLAIN_TENSORS:
            raise CannotCaptureError(f"native kernels cannot read a {type(tensor).__name__}")
        if id(tensor) not in self._constants:
            base = 1 + self._num_inputs + len(self._constant_tensors)
            self._constants[id(tensor)] = _view_of(tensor, Buffer(base=base))
            self._constant_tensors.append(tensor)
        return self._constants[id(tensor)]

    def _output(self, x: View, taken: Collection[int]) -> View:
        """A view of a whole buffer of scratch memory, in which the rows lie one after another.

        Args:
            taken: ids of buffers that are other outputs.
        """
        lead = x.sizes[: x.sizes.index(self.rows)] if self.rows in x.sizes else ()
        if any(size != 1 for size in lead):
            raise CannotCaptureError("the rows are not the first dimension of a result")
        whole = self.new(x.sizes, x.type)
        same = x.expanded is None and all(
            size == 1 or have == want
            for size, have, want in zip(x.sizes, x.strides, whole.strides, strict=True)
        )
        if same and x.offset == 0 and _same_size(x.buffer, whole.buffer, taken):
            return x
        return self.copied(x)

    def _add(self, operation: Operation) -> None:
        """Translate one operation.

        An operation in place on scratch memory becomes one that makes a new value.
        """
        name, in_place = _name(operation)
        returns_argument = (
            bool(operation.results)
            and isinstance(first := next(iter(operation.args), None), Value)
            and first.number == operation.results[0]
        )
        if returns_argument and not in_place and name != "index_copy_":
            return
        handler = self._handlers.get(name)
        if handler is None:
            raise cannot(operation)
        args, kwargs = self._arguments(name, operation)
        found = handler(self, Results(operation, self._recording), *args, **kwargs)
        if isinstance(found, View) and in_place:
            self._replace(operation, found)
        elif found is not None:
            several = found if isinstance(found, list) else [found]
            numbers = [number for number in operation.results if number is not None]
            self._values.update(zip(numbers, several, strict=True))

    def _arguments(self, name: str, operation: Operation) -> tuple[list[Any], Any]:
        """Views in place of recorded tensors, except for weights of products."""
        weights = WEIGHT_ARGUMENTS.get(name, range(0))
        given = enumerate(operation.args)
        args = [x if i in weights else map_aggregate(x, self._viewed) for i, x in given]
        return args, map_aggregate(dict(operation.kwargs), self._viewed)

    def _viewed(self, argument: Any) -> Any:
        return self.value(argument.number) if isinstance(argument, Value) else argument

    def _replace(self, operation: Operation, new: View) -> None:
        """After an operation in place: all names of the tensor mean the new value."""
        target = operation.args[0]
        old = self.value(target.number)
        if new == old:
            return
        if old.buffer is not None and old.buffer.base != SCRATCH:
            raise cannot(operation)
        for number, view in self._values.items():
            if view == old:
                self._values[number] = new
            elif old.buffer is not None and view.buffer is old.buffer:
                self._stale.add(number)
        self._values.update((n, new) for n in operation.results if n is not None)


def cannot(operation: Operation) -> CannotCaptureError:
    """The reason for refusing an operation."""
    return CannotCaptureError(f"native kernels do not have {operation.function}")


def _name(operation: Operation) -> tuple[str, bool]:
    """The operation's name without overload and without `_` at its end, and if that was there."""
    name = str(operation.function._schema.name).split("::")[1]
    in_place = name.endswith("_") and not name.endswith("__") and name != "index_copy_"
    return (name[:-1] if in_place else name), in_place


def _same_size(buffer: Buffer | None, wanted: Buffer | None, taken: Collection[int]) -> bool:
    """Whether scratch memory that is not taken is as large as wanted."""
    if buffer is None or wanted is None or buffer.base != SCRATCH or id(buffer) in taken:
        return False
    return buffer.size == wanted.size


def _view_of(tensor: Tensor, buffer: Buffer) -> View:
    if tensor.dtype not in TYPES:
        raise CannotCaptureError(f"native kernels do not have the type {tensor.dtype}")
    return View(buffer, tuple(tensor.shape), tuple(tensor.stride()), TYPES[tensor.dtype])


def usable_rows(sizes: Sequence[int], candidates: Sequence[int] = (7, 11, 13, 17, 19, 23)) -> int:
    """A number of rows to record with: one that divides none of the model's sizes.

    Raises:
        CannotCaptureError: each candidate does.
    """
    for rows in candidates:
        if all(size % rows for size in sizes if size):
            return rows
    raise CannotCaptureError("its sizes are multiples of every number of rows tried")
