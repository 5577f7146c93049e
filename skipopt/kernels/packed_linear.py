"""Faster linear layers on a CPU: weights packed once for oneDNN, where that is measured to pay.

An ordinary matrix product packs its weights on every call of two or more rows, so verifying a
few tokens costs two plain steps; packed weights take that away. For every shape of layer the
kernels race at one row and at four, from a cold cache as in decoding, and each keeps what it wins;
a layer for which packing never wins is left alone. Knows nothing of masks or decoding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from skipopt.errors import UsageError
from skipopt.models.patch import Forward, Patch

RUNTIMES = ("auto", "eager", "graphs", "packed", "compiled")
UNPACKED = ("eager", "compiled")  # packed weights are closed to a compiler
PACK_HINT = 8  # rows oneDNN lays weights out for; one copy serves any number
FEW_ROWS = 4
RACE_SECONDS = 0.02
MOST_EVICTED = 1 << 26  # bytes
# One copy of the weights in the cache is worth more than a close win at one row.
NEAR = 1.05
TOLERANCE = 1e-4
SOURCES = "sources"  # attribute of a packed layer's forward: see `Kernels`


@dataclass(frozen=True, slots=True)
class LinearKernels:
    """How linear layers are computed while skipopt runs the model.

    Attributes:
        name: `packed` where any layer is, else `eager`.
        patch: in force during every forward, and only then.
        extra_bytes: memory of the packed copies.
        sources: by the id of a packed weight, and by its own, the weight that was packed.
    """

    name: str
    patch: Patch
    extra_bytes: int = 0
    sources: Mapping[int, Tensor] = field(default_factory=dict)


def choose_kernels(
    model: nn.Module, untouchable: Collection[nn.Module], runtime: str = "auto"
) -> LinearKernels:
    """Race the kernels on this machine, with the threads torch has now.

    Args:
        untouchable: modules that masks replace themselves.
        runtime: `eager` and `compiled` pack nothing; the others pack what gains by it.

    Raises:
        UsageError: an unknown runtime.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}", hint=f"use one of {', '.join(RUNTIMES)}")
    changes: list[tuple[nn.Module, Forward]] = []
    extra = 0
    if runtime not in UNPACKED and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        whole = sum(map(_bytes, model.parameters()))
        for layers in _by_shape(model, untouchable):
            own = sum(_bytes(layer.weight) for layer in layers)
            if packed := _worthwhile(layers, _others(whole - own)):
                changes += packed
                extra += own
    sources = {i: w for _, forward in changes for i, w in vars(forward).get(SOURCES, {}).items()}
    return LinearKernels("packed" if changes else "eager", Patch(changes), extra, sources)


def _by_shape(model: nn.Module, untouchable: Collection[nn.Module]) -> Iterable[list[nn.Linear]]:
    groups: dict[tuple[Any, ...], list[nn.Linear]] = {}
    for module in model.modules():
        if _can_pack(module) and module not in untouchable:
            assert isinstance(module, nn.Linear)
            key = (*module.weight.shape, module.bias is None)
            groups.setdefault(key, []).append(module)
    return groups.values()


def _can_pack(module: nn.Module) -> bool:
    """Plain float32 layers in memory; quantised ones and those with hooks stay as they are."""
    if type(module) is not nn.Linear or "forward" in module.__dict__:
        return False
    weight = module.weight
    # Some libraries leave the layer's class alone and quantise the tensor.
    plain = type(weight) in (nn.Parameter, Tensor)
    return plain and weight.device.type == "cpu" and weight.dtype == torch.float32


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()


def _others(size: int) -> Tensor:
    """Stands for the rest of the model, which passes through the cache between two uses."""
    return torch.zeros(min(size, MOST_EVICTED) // 4)


@torch.inference_mode()
def _worthwhile(layers: list[nn.Linear], others: Tensor) -> list[tuple[nn.Module, Forward]]:
    """Replacements for layers of one shape; none where packing neither wins nor is exact."""
    packed = [_packed(layer) for layer in layers]
    if not all(_exact(layer, op) for layer, op in zip(layers, packed, strict=True)):
        return []
    plain: list[Operation] = [layer.forward for layer in layers]
    few, one = (torch.ones(1, rows, layers[0].in_features) for rows in (FEW_ROWS, 1))
    if _race(packed, few, others) >= _race(plain, few, others):
        return []
    if _race(packed, one, others) < NEAR * _race(plain, one, others):
        return list(zip(layers, packed, strict=True))
    pairs = zip(layers, plain, packed, strict=True)
    return [(layer, _mixed(layer.in_features, p, op)) for layer, p, op in pairs]


Operation = Callable[[Tensor], Tensor]


def _packed(layer: nn.Linear) -> Operation:
    weight = torch.ops.mkldnn._reorder_linear_weight.default(layer.weight.detach(), PACK_HINT)
    bias = None if layer.bias is None else layer.bias.detach()
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def forward(input: Tensor) -> Tensor:
        product: Tensor = multiply(input, weight, bias, "none", [], "")
        return product

    vars(forward)[SOURCES] = {id(weight): layer.weight, id(layer.weight): layer.weight}
    return forward


def _exact(layer: nn.Linear, operation: Operation) -> bool:
    rows = torch.linspace(-1, 1, FEW_ROWS * layer.in_features).view(1, FEW_ROWS, -1)
    expected = linear(rows, layer.weight, layer.bias)
    scale = float(expected.abs().max()) + 1e-6
    return float((operation(rows) - expected).abs().max()) <= TOLERANCE * scale


def _race(operations: list[Operation], given: Tensor, others: Tensor) -> float:
    """Seconds of one pass over all layers of the shape, after `others`; the best of several."""
    best, deadline = float("inf"), time.perf_counter() + RACE_SECONDS
    for _ in range(1000):
        others.sum()
        began = time.perf_counter()
        for operation in operations:
            operation(given)
        ended = time.perf_counter()
        best = min(best, ended - began)
        if ended > deadline:
            break
    return best


def _mixed(width: int, one: Operation, many: Operation) -> Forward:
    """`one` for a single row, `many` for several."""

    def forward(input: Tensor) -> Tensor:
        return one(input) if input.numel() == width else many(input)

    vars(forward)[SOURCES] = vars(many).get(SOURCES, {})
    return forward
