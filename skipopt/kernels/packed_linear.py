"""Linear layers on a CPU with weights packed once for oneDNN, where that is measured to be faster.

An ordinary matrix product packs its weights on every call of two or more rows, so verifying a few
tokens costs about two plain steps; weights that are packed in advance avoid that. For every shape
of layer both products are timed at one row and at four, from a cold cache as in decoding, and
each number of rows uses the faster one. A layer that packing does not speed up is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from skipopt.models.patch import Forward, Patch

PACK_HINT = 8  # rows oneDNN lays weights out for; one copy serves any number
FEW_ROWS = 4
TIMING_SECONDS = 0.02  # for each product, shape and number of rows
MAX_EVICT_BYTES = 1 << 26
# At one row packing may be this much slower and is still used: two copies of the weights would
# compete for the cache.
TIE = 1.05
TOLERANCE = 1e-4  # largest error of a packed product, as a share of the largest output

LinearFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class LinearKernels:
    """How linear layers are computed while skipopt runs the model.

    Attributes:
        name: `prepacked` if any layer is packed, else `eager`.
        patch: applied during every forward, and only then.
        extra_bytes: memory of the packed copies.
        unpacked_weights: the model's own weight, by the `id` of that weight and by the `id` of
            its packed copy.
    """

    name: str = "eager"
    patch: Patch = field(default_factory=lambda: Patch(()))
    extra_bytes: int = 0
    unpacked_weights: Mapping[int, Tensor] = field(default_factory=dict)


class PackedLinear(NamedTuple):
    """A layer's product with packed weights.

    Attributes:
        weight: the packed copy.
    """

    forward: LinearFunction
    weight: Tensor


class _Replacement(NamedTuple):
    layer: nn.Linear
    forward: Forward
    packed_weight: Tensor


def choose_kernels(model: nn.Module, excluded: Collection[nn.Module] = ()) -> LinearKernels:
    """Pack the weights of every linear layer that gains by it, with the threads torch has now.

    Args:
        excluded: modules that masks replace, which must keep their own `forward`.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return LinearKernels()
    model_bytes = sum(map(_bytes, model.parameters()))
    found: list[_Replacement] = []
    for layers in _by_shape(model, excluded):
        own = sum(_bytes(layer.weight) for layer in layers)
        found += _faster(layers, _evictor(model_bytes - own))
    if not found:
        return LinearKernels()
    unpacked = {id(each.packed_weight): each.layer.weight for each in found}
    unpacked |= {id(each.layer.weight): each.layer.weight for each in found}
    patch = Patch([(each.layer, each.forward) for each in found])
    extra = sum(_bytes(each.layer.weight) for each in found)
    return LinearKernels("prepacked", patch, extra, unpacked)


def _by_shape(model: nn.Module, excluded: Collection[nn.Module]) -> Iterable[list[nn.Linear]]:
    groups: dict[tuple[int | bool, ...], list[nn.Linear]] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear) and _can_pack(module) and module not in excluded:
            key = (*module.weight.shape, module.bias is None)
            groups.setdefault(key, []).append(module)
    return groups.values()


def _can_pack(layer: nn.Linear) -> bool:
    """Whether it is a plain float32 layer in memory: not quantized, offloaded or hooked."""
    if type(layer) is not nn.Linear or "forward" in layer.__dict__:
        return False
    weight = layer.weight
    # Some libraries keep the layer's class and quantize the tensor.
    plain = type(weight) in (nn.Parameter, Tensor)
    return plain and weight.device.type == "cpu" and weight.dtype == torch.float32


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()


def _evictor(size: int) -> Tensor:
    """Read between two timed passes, as the rest of the model is between two uses of a layer."""
    return torch.zeros(min(size, MAX_EVICT_BYTES) // 4)


@torch.inference_mode()
def _faster(layers: Sequence[nn.Linear], evictor: Tensor) -> list[_Replacement]:
    """Replacements for layers of one shape; none if packing is not faster at several rows."""
    packed = [pack_linear(layer) for layer in layers]
    if not all(map(_is_accurate, layers, packed)):
        return []
    own: list[LinearFunction] = [layer.forward for layer in layers]
    fast = [each.forward for each in packed]
    few, one = (torch.ones(1, rows, layers[0].in_features) for rows in (FEW_ROWS, 1))
    if measure_seconds(fast, few, evictor) >= measure_seconds(own, few, evictor):
        return []
    if measure_seconds(fast, one, evictor) >= TIE * measure_seconds(own, one, evictor):
        width = layers[0].in_features
        fast = [_by_rows(width, *pair) for pair in zip(own, fast, strict=True)]
    weights = (each.weight for each in packed)
    return [_Replacement(*each) for each in zip(layers, fast, weights, strict=True)]


def pack_linear(layer: nn.Linear) -> PackedLinear:
    """The layer's product, with a packed copy of its weight."""
    weight = torch.ops.mkldnn._reorder_linear_weight.default(layer.weight.detach(), PACK_HINT)
    bias = None if layer.bias is None else layer.bias.detach()
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def packed_forward(input: Tensor) -> Tensor:
        product: Tensor = multiply(input, weight, bias, "none", [], "")
        return product

    return PackedLinear(packed_forward, weight)


def _is_accurate(layer: nn.Linear, packed: PackedLinear) -> bool:
    rows = torch.linspace(-1, 1, FEW_ROWS * layer.in_features).view(1, FEW_ROWS, -1)
    expected = linear(rows, layer.weight, layer.bias)
    scale = float(expected.abs().max()) + 1e-6
    return float((packed.forward(rows) - expected).abs().max()) <= TOLERANCE * scale


def measure_seconds(operations: Sequence[LinearFunction], rows: Tensor, evictor: Tensor) -> float:
    """Shortest time of one pass over all operations, each pass after `evictor` was read."""
    best, deadline = float("inf"), time.perf_counter() + TIMING_SECONDS
    for _ in range(1000):
        evictor.sum()
        began = time.perf_counter()
        for operation in operations:
            operation(rows)
        ended = time.perf_counter()
        best = min(best, ended - began)
        if ended > deadline:
            break
    return best


def _by_rows(width: int, one: LinearFunction, several: LinearFunction) -> LinearFunction:
    """`one` for a single row of this width, `several` for more."""

    def forward(input: Tensor) -> Tensor:
        return one(input) if input.numel() == width else several(input)

    return forward
