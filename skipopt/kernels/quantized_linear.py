"""Quantised copies of linear layers, for drafts: int8 or int4 weights where that pays.

At one row a matrix product takes as long as its weights take to read, so a quarter of the bytes
is most of the gain. Which kernel multiplies is raced on this device for every shape of layer, from
a cold cache and against what the layer runs on now; a layer for which none wins, or whose copy
strays too far from it, keeps its own weights. Copies are made when they are first asked for.

Weights are scaled symmetrically: by output channel (int8), by channel and group of inputs (int4).
Knows nothing of masks, drafts or decoding.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from skipopt.models.patch import Forward, Patch

RACE_SECONDS = 0.02
RACED_LAYERS = 4  # of a shape; they are read one after another, as in decoding
EVICT_BYTES = 1 << 26
WORTH = 0.9  # of its own kernel's time that a layer must gain by: coarse weights cost acceptance
GROUP = 32  # inputs that share a scale, int4
INNER_TILES = 2  # of the layout of int4 weights on a GPU
PROBE_ROWS = 4
# Largest error that a copy may make on random rows, as a share of the largest output.
STRAYS = {8: 0.05, 4: 0.25}
AGREES = 0.02  # the same between a kernel and what is computed in its place for several rows
ABSENT = (RuntimeError, NotImplementedError, AttributeError)  # how torch says: not on this device

Operation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """One linear layer over quantised weights.

    Attributes:
        one: the kernel, for one row.
        many: the same numbers for any number of rows, each for itself; not fast.
    """

    one: Operation
    many: Operation
    size: int


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """What the race of a shape came to: the kernel, and its time as a share of the layer's own.

    `kernel` is None where nothing won, `share` where nothing ran.
    """

    kernel: Callable[[nn.Linear], QuantizedLinear] | None
    share: float | None


class QuantizedLinearCache:
    """Quantised copies of one model's linear layers.

    Args:
        untouchable: modules that masks replace themselves.
        runtime: in force when a layer is run as usual.
    """

    def __init__(
        self, model: nn.Module, untouchable: Collection[nn.Module], runtime: Patch
    ) -> None:
        self._runtime = runtime
        self._linears = [each for each in _linears(model) if each not in untouchable]
        self._copies: dict[tuple[nn.Linear, int], QuantizedLinear | None] = {}
        self._verdicts: dict[tuple[Any, ...], KernelChoice] = {}

    @property
    def extra_bytes(self) -> int:
        """Memory of the copies made so far."""
        return sum(copy.size for copy in self._copies.values() if copy is not None)

    def bytes_of(self, modules: Collection[nn.Module], bits: int) -> int:
        """Memory of the copies of so many bits that were made of these modules."""
        made = (self._copies.get((layer, bits)) for layer in self._linears if layer in modules)
        return sum(copy.size for copy in made if copy is not None)

    def patch(self, modules: Iterable[nn.Module], bits: int) -> Patch:
        """Under it, those of these modules that are linear layers and gain by it are quantised."""
        changes: list[tuple[nn.Module, Forward]] = []
        wanted = set(modules)
        for layer in self._linears:
            if layer in wanted and (copy := self._copy(layer, bits)) is not None:
                changes.append((layer, _forward(copy, layer.in_features)))
        return Patch(changes)

    def why_not(self, bits: int) -> str | None:
        """Why nothing is to be gained here, with the numbers; None where anything is."""
        shapes = {_shape(layer): layer for layer in self._linears}
        verdicts = [self._verdict(layer, bits) for layer in shapes.values()]
        if any(verdict.kernel for verdict in verdicts):
            return None
        shares = [verdict.share for verdict in verdicts if verdict.share is not None]
        if not shares:
            return f"no kernel here multiplies this model's layers in int{bits}"
        return (
            f"int{bits} does not pay here: its products take {min(shares):.2f} of the time of the "
            f"model's own at best, and {WORTH} is worth it"
        )

    def _copy(self, layer: nn.Linear, bits: int) -> QuantizedLinear | None:
        key = layer, bits
        if key not in self._copies:
            self._copies[key] = self._make(layer, bits)
        return self._copies[key]

    @torch.inference_mode()
    def _make(self, layer: nn.Linear, bits: int) -> QuantizedLinear | None:
        kernel = self._verdict(layer, bits).kernel
        if kernel is None:
            return None
        copy = kernel(layer)
        return copy if _is_faithful(layer, copy, bits) else None

    def _verdict(self, layer: nn.Linear, bits: int) -> KernelChoice:
        key = (*_shape(layer), bits)
        if key not in self._verdicts:
            alike = [each for each in self._linears if _shape(each) == _shape(layer)]
            self._verdicts[key] = self._judge(alike[:RACED_LAYERS], bits)
        return self._verdicts[key]

    @torch.inference_mode()
    def _judge(self, layers: list[nn.Linear], bits: int) -> KernelChoice:
        """Race the kernels over a few layers of one shape."""
        with self._runtime:
            own: list[Operation] = [layer.forward for layer in layers]
        first = layers[0]
        row = torch.ones(1, 1, first.in_features, dtype=first.weight.dtype, device=_device(first))
        pace = measure_seconds(own, row)
        ran: dict[Callable[[nn.Linear], QuantizedLinear], float] = {}
        for kernel in KERNELS[bits]:
            try:
                copies = [kernel(layer) for layer in layers]
                if _is_faithful(first, copies[0], bits):
                    ran[kernel] = measure_seconds([copy.one for copy in copies], row) / pace
            except ABSENT:
                continue
        if not ran:
            return KernelChoice(None, None)
        best = min(ran, key=lambda kernel: ran[kernel])
        return KernelChoice(best if ran[best] < WORTH else None, ran[best])


def _linears(model: nn.Module) -> Iterator[nn.Linear]:
    """Plain layers of floats in memory; those with hooks stay as they are."""
    for module in model.modules():
        # Not of a class of its own, which may compute otherwise.
        if isinstance(module, nn.Linear) and type(module) is nn.Linear:
            weight = module.weight
            here = weight.device.type != "meta" and weight.is_floating_point()
            if here and "forward" not in module.__dict__:
                yield module


def _shape(layer: nn.Linear) -> tuple[Any, ...]:
    return (*layer.weight.shape, layer.bias is None, layer.weight.dtype, layer.weight.device)


def _device(layer: nn.Linear) -> torch.device:
    return layer.weight.device


def _forward(copy: QuantizedLinear, width: int) -> Forward:
    def forward(input: Tensor) -> Tensor:
        return copy.one(input) if input.numel() == width else copy.many(input)

    return forward


def _is_faithful(layer: nn.Linear, copy: QuantizedLinear, bits: int) -> bool:
    """Is the kernel near the layer, and are its rows those that `many` computes?"""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, PROBE_ROWS, layer.in_features, generator=generator)
    rows = rows.to(_device(layer), layer.weight.dtype)
    exact = linear(rows, layer.weight, layer.bias).float()
    alone = torch.cat([copy.one(rows[:, i : i + 1]) for i in range(PROBE_ROWS)], 1).float()
    together = copy.many(rows).float()
    scale = float(exact.abs().max()) + 1e-6
    errors = (alone - exact).abs().max(), (alone - together).abs().max()
    # Not a number is never near.
    return float(errors[0]) <= STRAYS[bits] * scale and float(errors[1]) <= AGREES * scale


def measure_seconds(operations: list[Operation], given: Tensor) -> float:
    """Seconds of one pass over some layers; the best of several, each from a cold cache."""
    other = torch.zeros(EVICT_BYTES // 4, device=given.device)
    best, deadline = float("inf"), time.perf_counter() + RACE_SECONDS
    for _ in range(1000):
        other.add_(1)
        _wait(given.device)
        began = time.perf_counter()
        for operation in operations:
            operation(given)
        _wait(given.device)
        ended = time.perf_counter()
        best = min(best, ended - began)
        if ended > deadline:
            break
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- the kernels


def _int8_weights(layer: nn.Linear) -> QuantizedLinear:
    """int8 weights by activations in bfloat16."""
    multiply = torch.ops.aten._weight_int8pack_mm.default
    scales = _scales(layer.weight.detach().float(), 127)  # (out, 1)
    whole = (layer.weight.detach() / scales).round_().to(torch.int8).contiguous()
    narrow = scales.flatten().to(torch.bfloat16)

    def one(input: Tensor) -> Tensor:
        return _in_bfloat16(lambda rows: multiply(rows, whole, narrow), input, layer.bias)

    def many(input: Tensor) -> Tensor:
        weight = whole.float() * scales
        return _in_bfloat16(lambda rows: linear(rows.float(), weight), input, layer.bias)

    return QuantizedLinear(one, many, whole.numel() + 2 * narrow.numel())


def _int8_dynamic(layer: nn.Linear) -> QuantizedLinear:
    """int8 weights by activations that are quantised row by row, to 8 bits (fbgemm, oneDNN)."""
    if _device(layer).type != "cpu":
        raise NotImplementedError
    # Without these instructions products of 8 by 8 bits may overflow, and 7 bits never do.
    short = not torch.cpu._is_vnni_supported()
    weight = layer.weight.detach().float()
    scales = _scales(weight, 127)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        # Tensors of this kind are to go one day: then this kernel is absent, and not an error.
        warnings.simplefilter("ignore")
        factors = scales.flatten().double()
        whole = torch.quantize_per_channel(weight, factors, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(whole, None)
    multiply = torch.ops.quantized.linear_dynamic.default

    def one(input: Tensor) -> Tensor:
        return _with_bias(multiply(input.float(), packed, short), layer.bias).to(input.dtype)

    def many(input: Tensor) -> Tensor:
        unpacked, _ = torch.ops.quantized.linear_unpack(packed)
        rows = _rounded_rows(input.float(), 127 if short else 255)
        product = linear(rows, unpacked.dequantize())
        return _with_bias(product, layer.bias).to(input.dtype)

    return QuantizedLinear(one, many, whole.numel() + 4 * len(weight))


def _int4_weights(layer: nn.Linear) -> QuantizedLinear:
    """int4 weights, with a scale for each group of inputs, by activations in bfloat16."""
    weight = layer.weight.detach().float()
    groups = weight.view(len(weight), -1, GROUP)  # (out, groups, GROUP)
    scales = _scales(groups, 7)
    whole = ((groups / scales).round_() + 8).flatten(1)  # 1 … 15
    narrow = scales[..., 0].t().to(torch.bfloat16)
    factors = torch.stack([narrow, torch.zeros_like(narrow)], 2).contiguous()  # (groups, out, 2)
    packed, multiply = _int4_layout(whole)

    def one(input: Tensor) -> Tensor:
        return _in_bfloat16(lambda rows: multiply(rows, packed, GROUP, factors), input, layer.bias)

    def many(input: Tensor) -> Tensor:
        # The kernel unpacks its own layout: one row of the identity for each input.
        eye = torch.eye(layer.in_features, dtype=torch.bfloat16, device=packed.device)
        weight = multiply(eye, packed, GROUP, factors).float().t()
        return _in_bfloat16(lambda rows: linear(rows.float(), weight), input, layer.bias)

    return QuantizedLinear(one, many, packed.numel() * packed.element_size() + 2 * factors.numel())


def _int4_layout(whole: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
    """Packed values and what multiplies by them, on their device.  # (out, in), 1 … 15"""
    aten = torch.ops.aten
    if whole.device.type == "cpu":
        packed = aten._convert_weight_to_int4pack_for_cpu(whole.to(torch.int32), 1)
        return packed, aten._weight_int4pack_mm_for_cpu.default
    pairs = whole.to(torch.uint8)
    pairs = (pairs[:, ::2] << 4) | pairs[:, 1::2]
    packed = aten._convert_weight_to_int4pack(pairs.contiguous(), INNER_TILES)
    return packed, aten._weight_int4pack_mm.default


KERNELS: Mapping[int, tuple[Callable[[nn.Linear], QuantizedLinear], ...]] = {
    8: (_int8_weights, _int8_dynamic),
    4: (_int4_weights,),
}


def _scales(weight: Tensor, largest: int) -> Tensor:
    """What the integers −largest … largest are to be multiplied by, along the last dimension.

    Rounded to bfloat16, which the kernels take: so that rounding them loses nothing afterwards.
    """
    scales = weight.abs().amax(-1, keepdim=True) / largest
    # Up: a scale rounded down would make the largest weight one integer too many.
    return (scales * (1 + 2**-8)).clamp_(min=1e-12).to(torch.bfloat16).float()


def _rounded_rows(rows: Tensor, steps: int) -> Tensor:
    """Each row as `linear_dynamic` sees it, in that many steps from least to largest value."""
    low, high = rows.amin(-1, keepdim=True).clamp(max=0), rows.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / steps).clamp_(min=1e-12)
    zero = (-low / scale).round_()
    return ((rows / scale).round_().add_(zero).clamp_(0, steps) - zero) * scale


def _in_bfloat16(multiply: Operation, input: Tensor, bias: Tensor | None) -> Tensor:
    """Rows rounded to bfloat16 before and after a product of matrices.  # (…, in) -> (…, out)"""
    rows = input.reshape(-1, input.shape[-1]).to(torch.bfloat16)
    product = multiply(rows).to(torch.bfloat16).view(*input.shape[:-1], -1)
    return _with_bias(product.to(input.dtype), bias)


def _with_bias(product: Tensor, bias: Tensor | None) -> Tensor:
    return product if bias is None else product + bias
