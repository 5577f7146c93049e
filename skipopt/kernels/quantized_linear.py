"""Quantized copies of linear layers that drafts read: int8 or int4 weights, where that is faster.

At one row a matrix product takes as long as its weights take to read, so a quarter of the bytes
is most of the gain. For every shape of layer the available kernels are timed on this device,
from a cold cache, against what the layer runs on now. A layer for which no kernel is faster, or
whose copy is not accurate, keeps its own weights. Copies are made when they are first asked for.

Weights are scaled symmetrically: by output channel (int8), by channel and group of inputs (int4).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.kernels.native import NativeWeight
from skipopt.kernels.plain_linear import is_plain_linear, linear_of_rows
from skipopt.kernels.quantized_kernels import KERNELS, Kernel, LinearFunction, QuantizedLinear
from skipopt.models.patch import Forward

TIMED_PASSES = 3  # of which the fastest counts
MORE_PASSES = 9  # where no kernel of a shape seems to pay: another program may have slowed them
TIMED_LAYERS = 4  # of a shape; they are read one after another, as in decoding
TIMED_VALUES = 1 << 21  # of the weights of a shape; the rows of a larger layer are not all timed
ROW_MULTIPLE = 16  # int4 kernels need a multiple of so many rows
EVICT_BYTES = 1 << 26
# A quantized product must take at most this share of the layer's own time: quantization costs
# acceptance, so a small gain is none.
MIN_GAIN = 0.9
PROBE_ROWS = 4
# Largest error of a copy on random rows, as a share of the largest output, by weight bits.
MAX_ERROR = {8: 0.05, 4: 0.25}
# By weight bits, how often drafts are accepted by kernels that keep the rows as they are, and by
# those that round them to 8 bits: int8 about as `python -m benchmarks.kernel_agreement` measures,
# mean of SmolLM2-135M-Instruct and Gemma-3-270M; int4 with rows that torch rounds by itself.
ACCEPTANCE = {8: (0.974, 0.932), 4: (0.897, 0.883)}
KERNEL_TOLERANCE = 0.02  # the same, between a kernel and the product that stands in for it
# What torch raises for a kernel that does not exist on this device.
UNAVAILABLE = (RuntimeError, NotImplementedError, AttributeError)


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The kernel chosen for a shape of layer.

    Attributes:
        kernel: None if none is fast enough.
        relative_time: of the fastest kernel, as a share of the layer's own time; None if none ran.
    """

    kernel: Kernel | None
    relative_time: float | None


@dataclass(frozen=True, slots=True)
class _Race:
    """What is timed to choose the kernel of a shape.

    Attributes:
        shape: of the layers, see `_shape`.
        row: that they are multiplied with.  # (1, 1, in)
        own: the layers' own products.
        products: of their copies, by kernel.
    """

    shape: tuple[Any, ...]
    row: Tensor
    own: Sequence[LinearFunction]
    products: Mapping[Kernel, Sequence[LinearFunction]]

    def time(self, least: dict[Kernel | None, float]) -> None:
        """Time each once, and lower `least` (seconds by kernel; None: the layers' own) to that."""
        for kernel, products in ((None, self.own), *self.products.items()):
            least[kernel] = min(least[kernel], measure_seconds(products, self.row))


class QuantizedLinearCache:
    """Quantized copies of one model's linear layers.

    Args:
        excluded: modules that masks replace.
        own_product: the product that a layer runs on now, which copies are timed against.
        kernels: by the bits of their weights; torch's if None.

    Attributes:
        multiplies_rows: products of several rows take little longer than those of one. Torch's
            unpack a whole copy for them.
    """

    def __init__(
        self,
        model: nn.Module,
        excluded: Collection[nn.Module],
        own_product: Callable[[nn.Linear], LinearFunction],
        kernels: Mapping[int, Sequence[Kernel]] | None = None,
    ) -> None:
        self._model, self._excluded = model, excluded
        self._own_product = own_product
        self._kernels = KERNELS if kernels is None else kernels
        self.multiplies_rows = kernels is not None
        self._choices: dict[tuple[Any, ...], KernelChoice] = {}
        self.drop_copies()

    def drop_copies(self) -> None:
        """Make further copies anew, of the layers and weights that the model has by then."""
        found = _plain_linears(self._model)
        self._linears = [each for each in found if each not in self._excluded]
        self._copies: dict[tuple[nn.Linear, int], QuantizedLinear | None] = {}

    @property
    def extra_bytes(self) -> int:
        """Memory of the copies made so far."""
        return sum(copy.size for copy in self._copies.values() if copy is not None)

    def bytes_of(self, bits: Mapping[nn.Module, int]) -> int:
        """Memory of the copies with these bits made so far of these modules."""
        made = (self._copies.get((each, bits[each])) for each in self._linears if each in bits)
        return sum(copy.size for copy in made if copy is not None)

    def replacements(self, bits: Mapping[nn.Module, int]) -> list[tuple[nn.Module, Forward]]:
        """For a `Patch`: quantizes those of these modules that are linear layers and gain by it.

        Args:
            bits: of the weights of each module.
        """
        changes: list[tuple[nn.Module, Forward]] = []
        for layer in self._linears:
            if layer in bits and (copy := self._copy(layer, bits[layer])) is not None:
                changes.append((layer, _forward(copy, layer.in_features)))
        return changes

    def native_copies(self, bits: Mapping[nn.Module, int]) -> dict[int, NativeWeight] | None:
        """The copies that replace weights, by the addresses of these.

        Args:
            bits: as for `replacements`.

        Returns:
            None where not all copies are native, or where layers share a weight.
        """
        addresses = [layer.weight.data_ptr() for layer in self._linears]
        found: dict[int, NativeWeight] = {}
        for layer, address in zip(self._linears, addresses, strict=True):
            if layer in bits and (copy := self._copy(layer, bits[layer])) is not None:
                if copy.native is None:
                    return None
                found[address] = copy.native
        return found if len(set(addresses)) == len(addresses) else None

    @torch.inference_mode()
    def kernel_of_rows(self, layer: nn.Linear, rows: Tensor, bits: int) -> Kernel | None:
        """The kernel for a copy of some rows of a layer: that of layers of its shape.

        Args:
            rows: int64.

        Returns:
            None where the layer keeps its own weights, the copy is not accurate, or another copy
            could not be written into its tensors.
        """
        kernel = self._choice(layer, bits).kernel
        if kernel is None:
            return None
        part = linear_of_rows(layer, rows)
        try:
            copy = kernel(part)
        except UNAVAILABLE:  # some need a multiple of so many rows
            return None
        accurate = _is_accurate(part, copy, bits, self._own_product(part))
        return kernel if copy.tensors and accurate else None

    def clear(self) -> None:
        """Drop all copies and the choices of kernels; both are made again when asked for."""
        self._copies.clear()
        self._choices.clear()

    def unsupported_reason(self, bits: int) -> str | None:
        """Why no layer gains by `bits` bits here, with figures; None if any does."""
        layers = {_shape(layer): layer for layer in self._linears}
        choices = [self._choice(layer, bits) for layer in layers.values()]
        if any(choice.kernel for choice in choices):
            return None
        times = [each.relative_time for each in choices if each.relative_time is not None]
        if not times:
            return f"no kernel here multiplies this model's layers in int{bits}"
        return (
            f"int{bits} does not pay here: its products take {min(times):.2f} of the time of the "
            f"model's own at best, and {MIN_GAIN} is needed"
        )

    def _copy(self, layer: nn.Linear, bits: int) -> QuantizedLinear | None:
        key = layer, bits
        if key not in self._copies:
            self._copies[key] = self._make(layer, bits)
        return self._copies[key]

    @torch.inference_mode()
    def _make(self, layer: nn.Linear, bits: int) -> QuantizedLinear | None:
        kernel = self._choice(layer, bits).kernel
        if kernel is None:
            return None
        copy = kernel(layer)
        return copy if _is_accurate(layer, copy, bits, self._own_product(layer)) else None

    def _choice(self, layer: nn.Linear, bits: int) -> KernelChoice:
        key = (*_shape(layer), bits)
        if key not in self._choices:
            self._choose(bits)
        return self._choices[key]

    @torch.inference_mode()
    def _choose(self, bits: int) -> None:
        """Time the kernels on every shape, and choose.

        Kernels and shapes take turns, so that the cache is emptied only a few times: the first
        draft of a process waits for this.
        """
        timed = self._timed_layers()
        races = [self._race(layers, bits) for layers in timed]
        evicting = self._other_products({layer for layers in timed for layer in layers})
        best = [dict.fromkeys((None, *race.products), math.inf) for race in races]
        for passes in (TIMED_PASSES, MORE_PASSES):
            for _ in range(passes):
                for product, row in evicting:
                    product(row)
                for race, times in zip(races, best, strict=True):
                    race.time(times)
            order = self._preference(bits, races, best)
            found = [_choose(order, _relative(times)) for times in best]
            if all(choice.kernel or choice.relative_time is None for choice in found):
                break
        for race, choice in zip(races, found, strict=True):
            self._choices[*race.shape, bits] = choice

    def _preference(
        self, bits: int, races: Sequence[_Race], times: Sequence[Mapping[Kernel | None, float]]
    ) -> list[Kernel]:
        """The kernels, first the one with which drafts of the whole model gain most.

        One kernel for all shapes where that is possible: a choice by shape would follow the noise
        of their times, and a kernel that rounds rows costs acceptance in any layer.
        """
        values: dict[tuple[Any, ...], int] = defaultdict(int)
        for layer in self._linears:
            values[_shape(layer)] += layer.weight.numel()
        expected = {}
        for kernel, acceptance in zip(self._kernels[bits], ACCEPTANCE[bits], strict=False):
            parts = [
                (values[race.shape], _relative(own)[kernel])
                for race, own in zip(races, times, strict=True)
                if kernel in own
            ]
            if parts:
                whole = sum(count * share for count, share in parts)
                share = whole / sum(count for count, _ in parts)
                expected[kernel] = _expected_speedup(share, acceptance)
        return sorted(expected, key=expected.__getitem__, reverse=True)

    def _timed_layers(self) -> list[list[nn.Linear]]:
        """The first few layers of each shape."""
        alike: dict[tuple[Any, ...], list[nn.Linear]] = {}
        for layer in self._linears:
            alike.setdefault(_shape(layer), []).append(layer)
        return [
            layers[: max(1, min(TIMED_LAYERS, TIMED_VALUES // layers[0].weight.numel()))]
            for layers in alike.values()
        ]

    def _race(self, layers: Sequence[nn.Linear], bits: int) -> _Race:
        parts = [_first_rows(layer) for layer in layers]
        own = [self._own_product(part) for part in parts]
        products: dict[Kernel, Sequence[LinearFunction]] = {}
        for kernel in self._kernels[bits]:
            try:
                copies = [kernel(part) for part in parts]
                if _is_accurate(parts[0], copies[0], bits, own[0]):
                    products[kernel] = [copy.one_row for copy in copies]
            except UNAVAILABLE:
                continue
        return _Race(_shape(layers[0]), _row(layers[0]), own, products)

    def _other_products(self, timed: Collection[nn.Linear]) -> list[tuple[LinearFunction, Tensor]]:
        """Products of other layers that read about `EVICT_BYTES`, which empties the cache.

        A decoding step computes them between two uses of a layer, and no memory is allocated.
        """
        found: list[tuple[LinearFunction, Tensor]] = []
        size = 0
        for layer in self._linears:
            if layer not in timed and size < EVICT_BYTES:
                found.append((self._own_product(layer), _row(layer)))
                size += layer.weight.numel() * layer.weight.element_size()
        return found


def _relative(times: Mapping[Kernel | None, float]) -> dict[Kernel, float]:
    """Times of kernels as shares of that of the layers' own products, whose key is None."""
    return {kernel: seconds / times[None] for kernel, seconds in times.items() if kernel}


def _choose(order: Sequence[Kernel], relative_times: Mapping[Kernel, float]) -> KernelChoice:
    """The first kernel that is fast enough.

    Args:
        order: of the kernels.
        relative_times: of those that work, as shares of the layers' own time.
    """
    if not relative_times:
        return KernelChoice(None, None)
    paying = (kernel for kernel in order if relative_times.get(kernel, math.inf) < MIN_GAIN)
    return KernelChoice(next(paying, None), min(relative_times.values()))


def _row(layer: nn.Linear) -> Tensor:
    weight = layer.weight
    return torch.ones(1, 1, layer.in_features, dtype=weight.dtype, device=weight.device)


def _first_rows(layer: nn.Linear) -> nn.Linear:
    """The layer, or one over the first `TIMED_VALUES` of its weights if it has more."""
    rows = max(1, TIMED_VALUES // layer.in_features) // ROW_MULTIPLE * ROW_MULTIPLE
    if layer.out_features <= rows:
        return layer
    return linear_of_rows(layer, slice(rows))


def _plain_linears(model: nn.Module) -> Iterator[nn.Linear]:
    return (module for module in model.modules() if is_plain_linear(module))


def _expected_speedup(relative_time: float, acceptance: float) -> float:
    """Of the best chain of drafts by the law of speculative decoding (arXiv 2211.17192, §3.4)."""
    lengths = range(1, 11)
    return max(
        (1 - acceptance ** (n + 1)) / ((1 - acceptance) * (n * relative_time + 1)) for n in lengths
    )


def _shape(layer: nn.Linear) -> tuple[Any, ...]:
    return (*layer.weight.shape, layer.bias is None, layer.weight.dtype, layer.weight.device)


def _forward(copy: QuantizedLinear, width: int) -> Forward:
    if copy.forward is not None:
        return copy.forward

    def forward(input: Tensor) -> Tensor:
        return copy.one_row(input) if input.numel() == width else copy.many_rows(input)

    return forward


def _is_accurate(
    layer: nn.Linear, copy: QuantizedLinear, bits: int, own_product: LinearFunction
) -> bool:
    """Whether the kernel is close to the layer's product, and `many_rows` to the kernel."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, PROBE_ROWS, layer.in_features, generator=generator)
    rows = rows.to(layer.weight.device, layer.weight.dtype)
    exact = own_product(rows).float()
    together = alone = copy.many_rows(rows).float()
    if copy.one_row is not copy.many_rows:
        alone = torch.cat([copy.one_row(rows[:, i : i + 1]) for i in range(PROBE_ROWS)], 1).float()
    scale = float(exact.abs().max()) + 1e-6
    error, difference = (alone - exact).abs().max(), (alone - together).abs().max()
    # Comparisons with NaN are false, so a kernel that returns NaN is not accurate.
    return bool(error <= MAX_ERROR[bits] * scale) and bool(difference <= KERNEL_TOLERANCE * scale)


def measure_seconds(operations: Sequence[LinearFunction], row: Tensor) -> float:
    """Time of one pass over all operations."""
    _synchronize(row.device)
    began = time.perf_counter()
    for operation in operations:
        operation(row)
    _synchronize(row.device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
