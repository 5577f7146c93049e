"""Products, embeddings and attention as instructions of the native kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from skipopt.kernels.native import NativeWeight, WeightFormat, float_weight
from skipopt.runtime.native_code import EIGHT_BIT_ROWS, Code, Function, Instruction
from skipopt.runtime.native_translator import Handler, Results, Translator
from skipopt.runtime.native_views import View
from skipopt.runtime.tracing import CannotCaptureError, Value

MAX_WEIGHTS = 8  # in one instruction
MAX_HEAD = 512  # width of an attention head
FLOATS = (torch.float32, torch.bfloat16)


def _linear(t: Translator, to: Results, x: View, weight: Value, bias: Value | None = None) -> View:
    return _product(t, to, x, float_weight(_float_matrix(t, weight), _bias(t, bias)))


def _linear_rows(
    t: Translator, to: Results, x: View, weight: Value, rows: Value, bias: Value | None
) -> View:
    listed = t.constant_tensor(rows.number)
    return _product(t, to, x, float_weight(_float_matrix(t, weight), _bias(t, bias), listed))


def _float_matrix(t: Translator, weight: Value) -> Tensor:
    values = t.constant_tensor(weight.number)
    if values.dtype not in FLOATS or values.ndim != 2 or not values.is_contiguous():
        raise CannotCaptureError(f"native kernels cannot read a weight of {values.dtype}")
    return values.detach()


def _quantized_linear(
    t: Translator,
    to: Results,
    x: View,
    data: Value,
    scales: Value | None,
    groups: Value | None,
    bias: Value | None,
    format: int,
) -> View:
    scale, group = (None if v is None else t.constant_tensor(v.number) for v in (scales, groups))
    n, k = to.sizes[-1], x.sizes[-1]
    values = t.constant_tensor(data.number)
    weight = NativeWeight(WeightFormat(format), n, k, values, scale, group, _bias(t, bias))
    return _product(t, to, x, weight)


def _bias(t: Translator, bias: Value | None) -> Tensor | None:
    if bias is None:
        return None
    found = t.constant_tensor(bias.number).detach()
    if found.dtype != torch.float32:
        raise CannotCaptureError(f"native kernels cannot add a bias of {found.dtype}")
    return found


def _product(t: Translator, to: Results, x: View, weight: NativeWeight) -> View:
    """A product with a weight, in one instruction with earlier ones on the same rows."""
    rows = _matrix(t, x)
    out = t.new(to.sizes, to.type)
    flat = _flat(t, out)
    assert flat is not None
    earlier = _product_of_rows(t, rows, weight)
    if earlier is None:
        t.emit(Code.LINEAR, [flat, rows], weights=[weight])
    else:
        earlier.operands.insert(-1, flat)
        earlier.weights.append(weight)
    return out


def _product_of_rows(t: Translator, rows: View, weight: NativeWeight) -> Instruction | None:
    """The instruction that another weight may join: on these rows, not changed since."""
    for step in reversed(t.instructions):
        if step.code == Code.LINEAR and step.operands[-1] == rows:
            alike = (step.weights[0].format in EIGHT_BIT_ROWS) == (weight.format in EIGHT_BIT_ROWS)
            return step if alike and len(step.weights) < MAX_WEIGHTS else None
        if any(result.buffer is rows.buffer for result in step.operands[:-1]):
            return None
    return None


def _matrix(t: Translator, x: View) -> View:
    """(…, k) as (rows, k)."""
    x = t.real(x)
    found = _flat(t, x)
    if found is None:
        found = _flat(t, t.copied(x))
    if found is None:
        raise CannotCaptureError(f"native kernels cannot multiply the shape {x.sizes}")
    return found


def _flat(t: Translator, x: View) -> View | None:
    rows = math.prod(x.sizes[:-1])
    if rows != t.rows and rows % t.rows == 0:
        return None
    return x.reshaped((rows, x.sizes[-1]))


def _matmul(t: Translator, to: Results, a: View, b: View) -> View:
    weight = t.transposed_constant(b)
    if weight is not None and weight.dtype in FLOATS:
        return _product(t, to, a, float_weight(weight.detach()))
    lead, m, n, k = to.sizes[:-2], a.sizes[-2], b.sizes[-1], a.sizes[-1]
    out = t.new(to.sizes, to.type)
    left = _batched(t, t.real(a).broadcast((*lead, m, k)))
    right = _batched(t, t.real(b).broadcast((*lead, k, n)))
    t.emit(Code.MATMUL, [_batched(t, out), left, right])
    return out


def _batched(t: Translator, x: View) -> View:
    """(…, m, n) as (batch, m, n)."""
    return t.reshaped(x, (math.prod(x.sizes[:-2]), *x.sizes[-2:]))


def _attention(
    t: Translator,
    to: Results,
    q: View,
    k: View,
    v: View,
    mask: View | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> View:
    q = t.real(q)
    wide = len(q.sizes) != 4 or max(q.sizes[-1], v.sizes[-1]) > MAX_HEAD
    if wide or q.sizes[0] != 1 or dropout_p or is_causal:
        raise CannotCaptureError("attention in a form that native kernels do not have")
    heads, rows = q.sizes[1], q.sizes[2]
    keys, values = _heads(t, k, heads), _heads(t, v, heads)
    # In memory (rows, heads, width), as what follows reads it.
    out = t.new(to.sizes, to.type, order=(0, 2, 1, 3))
    operands = [out.without(0), q.without(0), keys, values]
    if mask is not None:
        operands.append(_mask(t, mask, rows, keys.sizes[2]))
    t.emit(Code.ATTENTION, operands, scale=q.sizes[3] ** -0.5 if scale is None else scale)
    return out


def _mask(t: Translator, mask: View, rows: int, keys: int) -> View:
    mask = t.real(mask)
    if mask.buffer is None or any(size != 1 for size in mask.sizes[:-2]):
        raise CannotCaptureError("an attention mask for each head")
    while len(mask.sizes) > 2:
        mask = mask.without(0)
    return mask.broadcast((rows, keys))


def _heads(t: Translator, x: View, heads: int) -> View:
    """Keys or values as (groups, heads of a group, keys, width)."""
    shared = x.expanded
    if (
        shared is not None
        and len(shared.sizes) == 5
        and shared.sizes[1] * shared.sizes[2] == heads
    ):
        return shared.without(0)
    groups, length, width = x.sizes[1:]
    x = t.real(x)
    if x.strides[-1] != 1:
        x = t.copied(x)
    one = t.reshaped(x, (groups, 1, length, width))
    return one.broadcast((groups, heads // groups, length, width))


def _embedding(t: Translator, to: Results, weight: View, ids: View, *_: Any, **__: Any) -> View:
    out = t.new(to.sizes, to.type)
    flat = _flat(t, out)
    assert flat is not None
    index = t.reshaped(ids, (math.prod(ids.sizes),))
    t.emit(Code.INDEX_SELECT, [flat, weight, index], dim=0)
    return out


def _addmm(t: Translator, to: Results, bias: View, x: View, weight: View) -> View:
    """GPT-2's linear layers, whose weights lie (in, out)."""
    product = _matmul(t, to, x, weight)
    out = t.new(to.sizes, to.type)
    return t.pointwise(Function.ADD, out, product, bias)


PRODUCTS: dict[str, Handler] = {
    "linear": _linear,
    "quantized_linear": _quantized_linear,
    "linear_rows": _linear_rows,
    "matmul": _matmul,
    "bmm": _matmul,
    "addmm": _addmm,
    "scaled_dot_product_attention": _attention,
    "embedding": _embedding,
}
