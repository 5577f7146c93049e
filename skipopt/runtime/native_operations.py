"""How each operation that models are made of becomes instructions of the native kernels.

A handler takes the translator, sizes and types of the results, and the arguments of the operation
with views in place of tensors; it returns the views of the results, or None where it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from skipopt.runtime.native_code import Code, Function, Reduction
from skipopt.runtime.native_products import PRODUCTS
from skipopt.runtime.native_translator import Handler, Results, Translator
from skipopt.runtime.native_views import FLOAT32, INT32, INT64, View, number_view
from skipopt.runtime.tracing import CannotCaptureError

NORM_EPS = 1.1920929e-07  # of `rms_norm` where none is given, float32


def _operand(x: Any, type: int) -> View:
    return x if isinstance(x, View) else number_view(x, type)


def _unary(function: Function, t: Translator, to: Results, x: View, *_: Any, **__: Any) -> View:
    return t.pointwise(function, t.new(to.sizes, to.type), x)


def _apply(t: Translator, function: Function, to: Results, *inputs: Any) -> View:
    out = t.new(to.sizes, to.type)
    return t.pointwise(function, out, *(_operand(x, to.type) for x in inputs))


def _binary(
    function: Function, t: Translator, to: Results, a: Any, b: Any, alpha: float = 1
) -> View:
    if alpha != 1:
        right = _operand(b, to.type)
        scaled = t.new(right.sizes, to.type)
        b = t.pointwise(Function.MUL, scaled, right, number_view(alpha, to.type))
    return _apply(t, function, to, a, b)


def _div(t: Translator, to: Results, a: Any, b: Any, rounding_mode: str | None = None) -> View:
    if rounding_mode not in (None, "floor"):
        raise CannotCaptureError(f"native kernels do not divide with rounding {rounding_mode}")
    return _apply(t, Function.FLOOR_DIV if rounding_mode else Function.DIV, to, a, b)


def _rsub(t: Translator, to: Results, a: Any, b: Any, alpha: float = 1) -> View:
    return _binary(Function.SUB, t, to, b, a, alpha)


def _gelu(t: Translator, to: Results, x: View, approximate: str = "none") -> View:
    return _apply(t, Function.GELU_TANH if approximate == "tanh" else Function.GELU, to, x)


def _where(t: Translator, to: Results, condition: View, a: Any, b: Any) -> View:
    return _apply(t, Function.WHERE, to, condition, a, b)


def _masked_fill(t: Translator, to: Results, x: View, mask: View, value: Any) -> View:
    return _apply(t, Function.WHERE, to, mask, value, x)


def _clamp(t: Translator, to: Results, x: View, min: Any = None, max: Any = None) -> View:
    for limit, function in ((min, Function.MAXIMUM), (max, Function.MINIMUM)):
        if limit is not None:
            x = _apply(t, function, to, x, limit)
    return x


def _fill(value: float, t: Translator, to: Results, *_: Any, **__: Any) -> View:
    return number_view(value, to.type, to.sizes)


def _full(t: Translator, to: Results, _: Any, value: float, *__: Any, **___: Any) -> View:
    return number_view(value, to.type, to.sizes)


def _new_full(t: Translator, to: Results, _: View, __: Any, value: float, **___: Any) -> View:
    return number_view(value, to.type, to.sizes)


def _scalar_tensor(t: Translator, to: Results, value: float, **_: Any) -> View:
    return number_view(value, to.type, to.sizes)


def _same(t: Translator, to: Results, x: View, *_: Any, **__: Any) -> View:
    return x


def _view(t: Translator, to: Results, x: View, *_: Any, **__: Any) -> View:
    return t.reshaped(x, to.sizes)


def _expand(t: Translator, to: Results, x: View, *_: Any, **__: Any) -> View:
    return t.real(x).broadcast(to.sizes)


def _permute(t: Translator, to: Results, x: View, dims: Sequence[int]) -> View:
    return t.real(x).permuted([d % len(x.sizes) for d in dims])


def _transpose(t: Translator, to: Results, x: View, a: int, b: int) -> View:
    order = list(range(len(x.sizes)))
    order[a], order[b] = order[b], order[a]
    return t.real(x).permuted(order)


def _t(t: Translator, to: Results, x: View) -> View:
    return t.real(x).permuted(range(len(x.sizes))[::-1])


def _part(t: Translator, x: View, dim: int, start: int, size: int, step: int = 1) -> View:
    """`size` elements of a dimension from `start` on."""
    x, dim = t.real(x), dim % len(x.sizes)
    if x.sizes[dim] == t.rows and size != t.rows:
        raise CannotCaptureError("a step reads some of its rows only")
    sizes, strides = list(x.sizes), list(x.strides)
    sizes[dim], strides[dim] = size, strides[dim] * step
    offset = x.offset + start * x.strides[dim]
    return View(x.buffer, tuple(sizes), tuple(strides), x.type, offset, x.number)


def _slice(
    t: Translator,
    to: Results,
    x: View,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> View:
    length = x.sizes[dim]
    begin = min(start or 0, length)
    return _part(t, x, dim, begin + length if begin < 0 else begin, to.sizes[dim], step)


def _narrow(t: Translator, to: Results, x: View, dim: int, start: int, length: int) -> View:
    return _part(t, x, dim, start, length)


def _select(t: Translator, to: Results, x: View, dim: int, index: int) -> View:
    dim %= len(x.sizes)
    return _part(t, x, dim, index % x.sizes[dim], 1).without(dim)


def _split(t: Translator, to: Results, x: View, _: Any, dim: int = 0) -> list[View]:
    found, start = [], 0
    for sizes in to.all_sizes:
        found.append(_part(t, x, dim, start, sizes[dim]))
        start += sizes[dim]
    return found


def _unbind(t: Translator, to: Results, x: View, dim: int = 0) -> list[View]:
    dim %= len(x.sizes)
    return [_part(t, x, dim, i, 1).without(dim) for i in range(len(to.all_sizes))]


def _cat(t: Translator, to: Results, tensors: Sequence[View], dim: int = 0) -> View:
    out, start = t.new(to.sizes, to.type), 0
    for x in tensors:
        t.pointwise(Function.COPY, _part(t, out, dim, start, x.sizes[dim]), x)
        start += x.sizes[dim]
    return out


def _stack(t: Translator, to: Results, tensors: Sequence[View], dim: int = 0) -> View:
    out = t.new(to.sizes, to.type)
    dim %= len(to.sizes)
    for i, x in enumerate(tensors):
        t.pointwise(Function.COPY, _part(t, out, dim, i, 1).without(dim), x)
    return out


def _reduce(
    function: Reduction,
    t: Translator,
    to: Results,
    x: View,
    dims: Any = None,
    keepdim: bool = False,
    **_: Any,
) -> View:
    x, count = t.real(x), len(x.sizes)
    gone = {d % count for d in _dims(dims, count)}
    kept = [d for d in range(count) if d not in gone]
    if x.buffer is None or any(x.sizes[d] == t.rows for d in gone):
        raise CannotCaptureError("a sum over rows, or of a constant")
    out = t.new(to.sizes, to.type)
    operands = [out.permuted(kept) if keepdim else out, x.permuted([*kept, *sorted(gone)])]
    t.emit(Code.REDUCE, operands, function=function, reduced=len(gone))
    return out


def _dims(dims: Any, count: int) -> Sequence[int]:
    """The dimensions of an argument that may be a number, a list, or left out for all."""
    if isinstance(dims, int):
        return [dims]
    return dims or range(count)


def _argmax(
    t: Translator, to: Results, x: View, dim: int | None = None, keepdim: bool = False
) -> View:
    if len(x.sizes) != 2 or dim not in (1, -1) or keepdim:
        raise CannotCaptureError("native kernels find the largest of each row only")
    out = t.new(to.sizes, to.type)
    t.emit(Code.LARGEST, [out, t.real(x)])
    return out


def _topk(t: Translator, to: Results, x: View, k: int, dim: int = -1, *order: bool) -> list[View]:
    if len(x.sizes) != 2 or k != 2 or dim not in (1, -1) or False in order:
        raise CannotCaptureError("native kernels find the two largest of each row only")
    values, places = t.new(to.sizes, x.type), t.new(to.sizes, INT64)
    t.emit(Code.LARGEST, [values, places, t.real(x)])
    return [values, places]


def _softmax(t: Translator, to: Results, x: View, dim: int, *_: Any, **__: Any) -> View:
    if dim not in (-1, len(x.sizes) - 1):
        raise CannotCaptureError("native kernels take softmax over the last dimension only")
    out = t.new(to.sizes, to.type)
    t.emit(Code.SOFTMAX, [out, t.real(x)])
    return out


def _float(t: Translator, function: Function, sizes: Sequence[int], *inputs: Any) -> View:
    out = t.new(sizes, FLOAT32)
    return t.pointwise(function, out, *(_operand(x, FLOAT32) for x in inputs))


def _inverse_deviation(t: Translator, x: View, eps: float) -> View:
    """1 / sqrt(mean of the squares over the last dimension + eps)."""
    narrow = (*x.sizes[:-1], 1)
    squares = _float(t, Function.MUL, x.sizes, x, x)
    mean = t.new(narrow, FLOAT32)
    operands = [mean.without(len(narrow) - 1), squares]
    t.emit(Code.REDUCE, operands, function=Reduction.MEAN, reduced=1)
    return _float(t, Function.RSQRT, narrow, _float(t, Function.ADD, narrow, mean, eps))


def _layer_norm(
    t: Translator,
    to: Results,
    x: View,
    shape: Sequence[int],
    weight: View | None = None,
    bias: View | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> View:
    _require_one_dimension(shape)
    x, narrow = t.real(x), (*x.sizes[:-1], 1)
    mean = t.new(narrow, FLOAT32)
    t.emit(Code.REDUCE, [mean.without(len(narrow) - 1), x], function=Reduction.MEAN, reduced=1)
    out = _float(t, Function.SUB, to.sizes, x, mean)
    out = _float(t, Function.MUL, to.sizes, out, _inverse_deviation(t, out, eps))
    if weight is not None:
        out = _float(t, Function.MUL, to.sizes, out, weight)
    if bias is not None:
        out = _float(t, Function.ADD, to.sizes, out, bias)
    return out if to.type == FLOAT32 else _apply(t, Function.COPY, to, out)


def _rms_norm(
    t: Translator,
    to: Results,
    x: View,
    shape: Sequence[int],
    weight: View | None = None,
    eps: float | None = None,
) -> View:
    _require_one_dimension(shape)
    x = t.real(x)
    scale = _inverse_deviation(t, x, NORM_EPS if eps is None else eps)
    out = _float(t, Function.MUL, to.sizes, x, scale)
    if weight is not None:
        out = _float(t, Function.MUL, to.sizes, out, weight)
    return out if to.type == FLOAT32 else _apply(t, Function.COPY, to, out)


def _require_one_dimension(shape: Sequence[int]) -> None:
    if len(shape) != 1:
        raise CannotCaptureError("native kernels normalize over one dimension only")


def _index_select(t: Translator, to: Results, x: View, dim: int, index: View) -> View:
    out = t.new(to.sizes, to.type)
    t.emit(Code.INDEX_SELECT, [out, t.real(x), t.real(index)], dim=dim % len(x.sizes))
    return out


def _index(t: Translator, to: Results, x: View, indices: Sequence[View | None]) -> View:
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    dim, index = given[0]
    if len(given) != 1 or len(index.sizes) != 1 or index.type not in (INT64, INT32):
        raise CannotCaptureError("native kernels take an index of one dimension only")
    return _index_select(t, to, x, dim, index)


def _index_copy(t: Translator, to: Results, x: View, dim: int, index: View, source: View) -> None:
    if x.buffer is None or x.buffer.base == 0:
        raise CannotCaptureError("rows are copied into a tensor that is not kept")
    t.emit(Code.INDEX_COPY, [x, index, t.real(source)], dim=dim % len(x.sizes))


def _index_copied(
    t: Translator, to: Results, x: View, dim: int, index: View, source: View
) -> View:
    """`index_copy`, into a copy."""
    out = t.pointwise(Function.COPY, t.new(to.sizes, to.type), x)
    t.emit(Code.INDEX_COPY, [out, index, t.real(source)], dim=dim % len(out.sizes))
    return out


_UNARY: dict[str, Function] = {
    "neg": Function.NEG, "rsqrt": Function.RSQRT, "sqrt": Function.SQRT, "exp": Function.EXP,
    "log": Function.LOG, "sigmoid": Function.SIGMOID, "tanh": Function.TANH,
    "silu": Function.SILU, "relu": Function.RELU, "cos": Function.COS, "sin": Function.SIN,
    "reciprocal": Function.RECIPROCAL, "abs": Function.ABS, "bitwise_not": Function.NOT,
    "logical_not": Function.NOT, "clone": Function.COPY, "to": Function.COPY,
    "contiguous": Function.COPY, "_to_copy": Function.COPY, "type_as": Function.COPY,
}  # fmt: skip
_BINARY: dict[str, Function] = {
    "add": Function.ADD, "sub": Function.SUB, "mul": Function.MUL, "pow": Function.POW,
    "maximum": Function.MAXIMUM, "minimum": Function.MINIMUM, "le": Function.LE,
    "lt": Function.LT, "ge": Function.GE, "gt": Function.GT, "eq": Function.EQ,
    "ne": Function.NE, "bitwise_and": Function.AND, "__and__": Function.AND,
    "logical_and": Function.AND, "bitwise_or": Function.OR, "__or__": Function.OR,
    "logical_or": Function.OR, "floor_divide": Function.FLOOR_DIV,
}  # fmt: skip
_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze")

HANDLERS: dict[str, Handler] = {
    **{name: partial(_unary, function) for name, function in _UNARY.items()},
    **{name: partial(_binary, function) for name, function in _BINARY.items()},
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(("alias", "detach", "dropout", "lift_fresh"), _same),
    **dict.fromkeys(("zeros", "new_zeros", "zeros_like"), partial(_fill, 0)),
    **dict.fromkeys(("ones", "new_ones", "ones_like"), partial(_fill, 1)),
    **dict.fromkeys(("full", "full_like"), _full),
    "new_full": _new_full,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expand),
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    "mean": partial(_reduce, Reduction.MEAN),
    "sum": partial(_reduce, Reduction.SUM),
    "amax": partial(_reduce, Reduction.AMAX),
    "amin": partial(_reduce, Reduction.AMIN),
    "logsumexp": partial(_reduce, Reduction.LOGSUMEXP),
    "div": _div,
    "rsub": _rsub,
    "gelu": _gelu,
    "where": _where,
    "masked_fill": _masked_fill,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "scalar_tensor": _scalar_tensor,
    "permute": _permute,
    "transpose": _transpose,
    **dict.fromkeys(("t", "numpy_T"), _t),
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    "unbind": _unbind,
    "cat": _cat,
    "stack": _stack,
    "argmax": _argmax,
    "topk": _topk,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "index_select": _index_select,
    "index": _index,
    "index_copy": _index_copied,
    "index_copy_": _index_copy,
    **PRODUCTS,
}
