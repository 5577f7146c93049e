"""Quantized linear layers on the native kernels, as a torch operator that steps can record."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

from skipopt.kernels.native import (
    INT4_MULTIPLE,
    NativeKernels,
    NativeWeight,
    WeightFormat,
    float_weight,
    int4_weight,
    int8_weight,
    native_kernels,
)
from skipopt.kernels.quantized_kernels import Kernel, LinearFunction, QuantizedLinear


@torch.library.custom_op("skipopt::quantized_linear", mutates_args=())
def quantized_linear(
    input: Tensor,
    data: Tensor,
    scales: Optional[Tensor],  # noqa: UP045  (torch.library reads these annotations)
    groups: Optional[Tensor],  # noqa: UP045
    bias: Optional[Tensor],  # noqa: UP045
    format: int,
) -> Tensor:
    """A product with a weight in one of `WeightFormat`.  # (…, k) -> (…, n)"""
    kernels = native_kernels()
    assert kernels is not None
    kind, width = WeightFormat(format), input.shape[-1]
    weight = NativeWeight(kind, len(data), width, data, scales, groups, bias)
    return _multiply(kernels, input, weight)


@torch.library.custom_op("skipopt::linear_rows", mutates_args=())
def linear_rows(
    input: Tensor,
    weight: Tensor,
    rows: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
) -> Tensor:
    """A product with some rows of a float weight, which is read where it is.

    Args:
        rows: of the weight and the bias.  # (n,) int64

    # (…, k) -> (…, n)
    """
    kernels = native_kernels()
    assert kernels is not None
    return _multiply(kernels, input, float_weight(weight, bias, rows))


def native_kernels_of(kernels: NativeKernels) -> dict[int, tuple[Kernel, ...]]:
    """Kernels by weight bits. Those that round rows to 8 bits are faster and less accurate."""

    def int8(layer: nn.Linear) -> QuantizedLinear:
        return _layer(kernels, int8_weight(layer.weight, _bias(layer)))

    def int8_rows(layer: nn.Linear) -> QuantizedLinear:
        return _layer(kernels, int8_weight(layer.weight, _bias(layer), rows=True))

    def int4(layer: nn.Linear) -> QuantizedLinear:
        _require_groups(layer)
        return _layer(kernels, int4_weight(layer.weight, _bias(layer)))

    def int4_rows(layer: nn.Linear) -> QuantizedLinear:
        _require_groups(layer)
        return _layer(kernels, int4_weight(layer.weight, _bias(layer), rows=True))

    return {8: (int8, int8_rows), 4: (int4, int4_rows)}


def native_product(kernels: NativeKernels, layer: nn.Linear) -> LinearFunction:
    """The layer's own product on the native kernels."""
    weight = float_weight(layer.weight.detach(), _bias(layer))
    return lambda input: _multiply(kernels, input, weight)


def _layer(kernels: NativeKernels, weight: NativeWeight) -> QuantizedLinear:
    data, scales, groups, bias = weight.data, weight.scales, weight.groups, weight.bias

    def quantized(input: Tensor) -> Tensor:
        return _multiply(kernels, input, weight)

    def forward(input: Tensor) -> Tensor:
        result: Tensor = torch.ops.skipopt.quantized_linear.default(
            input, data, scales, groups, bias, int(weight.format)
        )
        return result

    tensors = [each for each in (data, scales, groups) if each is not None]
    size = sum(each.numel() * each.element_size() for each in tensors)
    return QuantizedLinear(quantized, quantized, size, forward, tuple(tensors), weight)


def _multiply(kernels: NativeKernels, input: Tensor, weight: NativeWeight) -> Tensor:
    rows = input.reshape(-1, weight.k).float().contiguous()
    return kernels.multiply(rows, weight).view(*input.shape[:-1], weight.n).to(input.dtype)


def _bias(layer: nn.Linear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach().float()


def _require_groups(layer: nn.Linear) -> None:
    if layer.in_features % INT4_MULTIPLE:
        raise NotImplementedError
