"""Linear layers with int8 and int4 weights: fast kernels for one row, and a slower form for more.

Both give the same results for each row. Kernels are fast for one row only, so where several rows
run under the same patch, `many_rows` is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from skipopt.kernels.native import NativeWeight

GROUP_SIZE = 32  # inputs that share a scale, int4
INNER_TILES = 2  # of the layout of int4 weights on a GPU

LinearFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """One linear layer over quantized weights.

    Attributes:
        one_row: the kernel, for a single row.
        many_rows: the same numbers for any number of rows; not fast.
        size: bytes of the copy.
        forward: replaces the layer's own; None if it is `one_row` for one row, else `many_rows`.
        tensors: what `forward` reads, so that other weights of the same shape can be written into
            them; empty where that is not possible.
        native: the copy, where `forward` is the product with it on the native kernels.
    """

    one_row: LinearFunction
    many_rows: LinearFunction
    size: int
    forward: LinearFunction | None = None
    tensors: tuple[Tensor, ...] = ()
    native: NativeWeight | None = None


Kernel = Callable[[nn.Linear], QuantizedLinear]


def int8_weights(layer: nn.Linear) -> QuantizedLinear:
    """int8 weights, bfloat16 activations."""
    multiply = torch.ops.aten._weight_int8pack_mm.default
    scales = _scales(layer.weight.detach().float(), 127)  # (out, 1)
    integers = (layer.weight.detach() / scales).round_().to(torch.int8).contiguous()
    kernel_scales = scales.flatten().to(torch.bfloat16)

    def one_row(input: Tensor) -> Tensor:
        return _in_bfloat16(
            lambda rows: multiply(rows, integers, kernel_scales), input, layer.bias
        )

    def many_rows(input: Tensor) -> Tensor:
        weight = integers.float() * scales
        return _in_bfloat16(lambda rows: linear(rows.float(), weight), input, layer.bias)

    return QuantizedLinear(one_row, many_rows, integers.numel() + 2 * kernel_scales.numel())


def int8_dynamic(layer: nn.Linear) -> QuantizedLinear:
    """int8 weights, activations quantized row by row to 8 bits (fbgemm, oneDNN); on a CPU."""
    if layer.weight.device.type != "cpu":
        raise NotImplementedError
    # Without VNNI, products of 8 by 8 bits may overflow; with 7 bits they never do.
    seven_bits = not torch.cpu._is_vnni_supported()
    weight = layer.weight.detach().float()
    integers = _quantize_per_channel(weight, _scales(weight, 127))
    packed = torch.ops.quantized.linear_prepack(integers, None)
    multiply = torch.ops.quantized.linear_dynamic.default

    def one_row(input: Tensor) -> Tensor:
        product = multiply(input.float(), packed, seven_bits)
        return _with_bias(product, layer.bias).to(input.dtype)

    def many_rows(input: Tensor) -> Tensor:
        unpacked, _ = torch.ops.quantized.linear_unpack(packed)
        rows = _rounded_rows(input.float(), 127 if seven_bits else 255)
        product = linear(rows, unpacked.dequantize())
        return _with_bias(product, layer.bias).to(input.dtype)

    return QuantizedLinear(one_row, many_rows, integers.numel() + 4 * len(weight))


def _quantize_per_channel(weight: Tensor, scales: Tensor) -> Tensor:
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        # Quantized tensors are deprecated; when torch removes them, this kernel is unavailable.
        warnings.simplefilter("ignore")
        return torch.quantize_per_channel(weight, scales.flatten().double(), zeros, 0, torch.qint8)


def int4_weights(layer: nn.Linear) -> QuantizedLinear:
    """int4 weights with a scale for each group of inputs, bfloat16 activations."""
    weight = layer.weight.detach().float()
    groups = weight.view(len(weight), -1, GROUP_SIZE)  # (out, groups, GROUP_SIZE)
    scales = _scales(groups, 7)
    integers = ((groups / scales).round_() + 8).flatten(1)  # 1 … 15
    factors = scales[..., 0].t().to(torch.bfloat16)
    factors = torch.stack([factors, torch.zeros_like(factors)], 2).contiguous()  # (groups, out, 2)
    packed, multiply = _int4_layout(integers)

    def one_row(input: Tensor) -> Tensor:
        return _in_bfloat16(
            lambda rows: multiply(rows, packed, GROUP_SIZE, factors), input, layer.bias
        )

    def many_rows(input: Tensor) -> Tensor:
        # The kernel itself unpacks its layout, by a product with the identity.
        eye = torch.eye(layer.in_features, dtype=torch.bfloat16, device=packed.device)
        weight = multiply(eye, packed, GROUP_SIZE, factors).float().t()
        return _in_bfloat16(lambda rows: linear(rows.float(), weight), input, layer.bias)

    size = packed.numel() * packed.element_size() + 2 * factors.numel()
    return QuantizedLinear(one_row, many_rows, size)


def _int4_layout(integers: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
    """Packed (out, in) values from 1 to 15, and the product by them, on their device."""
    aten = torch.ops.aten
    if integers.device.type == "cpu":
        packed = aten._convert_weight_to_int4pack_for_cpu(integers.to(torch.int32), 1)
        return packed, aten._weight_int4pack_mm_for_cpu.default
    pairs = integers.to(torch.uint8)
    pairs = (pairs[:, ::2] << 4) | pairs[:, 1::2]
    packed = aten._convert_weight_to_int4pack(pairs.contiguous(), INNER_TILES)
    return packed, aten._weight_int4pack_mm.default


KERNELS: Mapping[int, tuple[Kernel, ...]] = {8: (int8_weights, int8_dynamic), 4: (int4_weights,)}


def _scales(weight: Tensor, largest: int) -> Tensor:
    """The scales of integers from −largest to largest, along the last dimension.

    Rounded to bfloat16, which the kernels take, so that their rounding changes nothing.
    """
    scales = weight.abs().amax(-1, keepdim=True) / largest
    # Rounded up: with a scale rounded down, the largest weight would need a larger integer.
    return (scales * (1 + 2**-8)).clamp_(min=1e-12).to(torch.bfloat16).float()


def _rounded_rows(rows: Tensor, steps: int) -> Tensor:
    """Each row as `linear_dynamic` quantizes it: in `steps` steps from its least value up."""
    low, high = rows.amin(-1, keepdim=True).clamp(max=0), rows.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / steps).clamp_(min=1e-12)
    zero = (-low / scale).round_()
    return ((rows / scale).round_().add_(zero).clamp_(0, steps) - zero) * scale


def _in_bfloat16(multiply: LinearFunction, input: Tensor, bias: Tensor | None) -> Tensor:
    """A product of rows, rounded to bfloat16 before and after it.  # (…, in) -> (…, out)"""
    rows = input.reshape(-1, input.shape[-1]).to(torch.bfloat16)
    product = multiply(rows).to(torch.bfloat16).view(*input.shape[:-1], -1)
    return _with_bias(product.to(input.dtype), bias)


def _with_bias(product: Tensor, bias: Tensor | None) -> Tensor:
    return product if bias is None else product + bias
