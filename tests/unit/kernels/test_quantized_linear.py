"""Quantized copies of linear layers: accuracy, size, choice of kernels, and clean removal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from skipopt.kernels import quantized_linear
from skipopt.kernels.plain_linear import is_plain_linear
from skipopt.kernels.quantized_kernels import KERNELS, Kernel, QuantizedLinear, int8_weights
from skipopt.kernels.quantized_linear import MAX_ERROR, QuantizedLinearCache
from skipopt.models.patch import Forward, Patch

KERNEL_CASES = [(bits, kernel) for bits, kernels in KERNELS.items() for kernel in kernels]
IDS = [kernel.__name__ for _, kernel in KERNEL_CASES]


def seconds_of(name: str, seconds: float) -> Callable[..., float]:
    """Timings in which kernels of that name take `seconds`, the layer itself 1, and others 2."""

    def measure(
        operations: Sequence[Callable[[Tensor], Tensor]], rows: Tensor, *_: object
    ) -> float:
        assert rows.shape[1] == 1, "drafts have one row"
        found = operations[0].__qualname__
        return seconds if found.startswith(name) else 2.0 if found.startswith("int") else 1.0

    return measure


@pytest.fixture
def quantized_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_linear, "measure_seconds", seconds_of("int", 0.5))


def layers(bias: bool = True, width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 96, bias=bias), nn.Linear(96, 32, bias=bias))


def cache_of(model: nn.Module, excluded: Collection[nn.Module] = ()) -> QuantizedLinearCache:
    return QuantizedLinearCache(model, excluded, lambda layer: layer.forward)


def replaced(changes: list[tuple[nn.Module, Forward]], model: nn.Module) -> list[nn.Module]:
    with Patch(changes):
        return [module for module in model.modules() if "forward" in module.__dict__]


def off_by(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize(("bits", "kernel"), KERNEL_CASES, ids=IDS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_copy_is_near_its_layer(
    bits: int, kernel: Callable[[nn.Linear], QuantizedLinear], bias: bool
) -> None:
    layer = layers(bias)[0]
    copy, row = kernel(layer), torch.randn(1, 1, 64)
    assert copy.one_row(row).shape == (1, 1, 96)
    assert copy.one_row(row).dtype == torch.float32
    assert 0 < off_by(copy.one_row(row), layer(row)) < MAX_ERROR[bits]


@torch.inference_mode()
@pytest.mark.parametrize(("bits", "kernel"), KERNEL_CASES, ids=IDS)
def test_several_rows_equal_each_row_alone(
    bits: int, kernel: Callable[[nn.Linear], QuantizedLinear]
) -> None:
    """A row a thousand times as large does not change another."""
    copy = kernel(layers()[0])
    rows = torch.randn(2, 3, 64) * torch.tensor([1.0, 1000.0, 0.01])[:, None]
    together = copy.many_rows(rows)
    for i in range(2):
        for j in range(3):
            alone = copy.one_row(rows[i : i + 1, j : j + 1])[0, 0]
            assert off_by(together[i, j], alone) < 0.01


@torch.inference_mode()
@pytest.mark.parametrize(("bits", "kernel"), KERNEL_CASES, ids=IDS)
def test_copies_are_smaller_than_the_weights(
    bits: int, kernel: Callable[[nn.Linear], QuantizedLinear]
) -> None:
    layer = nn.Linear(256, 128)
    share = kernel(layer).size / (4 * layer.weight.numel())
    assert bits / 32 <= share < 1.3 * bits / 32


@torch.inference_mode()
def test_each_channel_has_its_own_scale() -> None:
    """A channel a thousand times smaller than another keeps its precision."""
    layer = nn.Linear(64, 32, bias=False)
    layer.weight[0] *= 1000
    row = torch.randn(1, 1, 64)
    for _, kernel in KERNEL_CASES:
        found, exact = kernel(layer).one_row(row)[..., 1:], layer(row)[..., 1:]
        assert off_by(found, exact) < MAX_ERROR[4]


@torch.inference_mode()
def test_a_channel_of_zeros_stays_zero() -> None:
    layer = nn.Linear(64, 32, bias=False)
    layer.weight[3] = 0
    for _, kernel in KERNEL_CASES:
        assert float(kernel(layer).one_row(torch.randn(1, 1, 64))[..., 3].abs().max()) < 1e-6


@torch.inference_mode()
@pytest.mark.parametrize("bits", [8, 4])
def test_under_the_patch_layers_are_quantized_and_afterwards_as_before(
    quantized_wins: None, bits: int
) -> None:
    model = layers()
    row = torch.randn(1, 1, 64)
    before = model(row)
    patch = Patch(cache_of(model).replacements(dict.fromkeys(model, bits)))
    with patch:
        assert 0 < off_by(model(row), before) < 2 * MAX_ERROR[bits]
    assert torch.equal(model(row), before)
    with pytest.raises(RuntimeError, match="inside"), patch:
        raise RuntimeError("inside")
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_copies_are_made_once_when_asked_for_and_counted(quantized_wins: None) -> None:
    model = layers()
    held = cache_of(model)
    assert held.extra_bytes == 0
    held.replacements({model[0]: 8})
    first = held.extra_bytes
    assert 64 * 96 < first < 1.2 * 64 * 96
    held.replacements({model[0]: 8})
    assert held.extra_bytes == first
    held.replacements(dict.fromkeys(model, 8))
    assert held.extra_bytes > first + 96 * 32


def test_only_the_requested_layers_are_quantized(quantized_wins: None) -> None:
    model = layers()
    every = dict.fromkeys(model, 8)
    assert replaced(cache_of(model).replacements({model[1]: 8}), model) == [model[1]]
    assert replaced(cache_of(model, {model[1]}).replacements(every), model) == [model[0]]


class Own(nn.Linear):
    """A linear layer with a forward of its own."""


def test_layers_of_another_class_and_with_hooks_are_left_alone(quantized_wins: None) -> None:
    model = nn.Sequential(Own(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].forward = model[1].forward
    patch = Patch(cache_of(model).replacements(dict.fromkeys(model, 8)))
    with patch:
        assert "forward" not in model[0].__dict__
        assert "forward" in model[2].__dict__
    assert "forward" in model[1].__dict__


@torch.inference_mode()
def test_the_fastest_kernel_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers()
    for name in ("int8_weights", "int8_dynamic"):
        monkeypatch.setattr(quantized_linear, "measure_seconds", seconds_of(name, 0.5))
        held = cache_of(model)
        held.replacements(dict.fromkeys(model, 8))
        assert {choice.kernel.__name__ for choice in held._choices.values()} == {name}


def test_kernels_that_another_program_slowed_are_timed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast, calls = seconds_of("int", 0.5), count()

    def measured(slow: int) -> Callable[..., float]:
        return lambda *given: 1.0 if next(calls) < slow else fast(*given)

    monkeypatch.setattr(quantized_linear, "measure_seconds", measured(slow=0))
    assert cache_of(layers()).unsupported_reason(8) is None
    first = next(calls)  # calls of the first passes
    calls = count()
    monkeypatch.setattr(quantized_linear, "measure_seconds", measured(slow=first))
    assert cache_of(layers()).unsupported_reason(8) is None


def test_where_no_kernel_is_faster_nothing_is_replaced_and_timings_are_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantized_linear, "measure_seconds", seconds_of("int", 0.97))
    model = layers()
    held = cache_of(model)
    assert replaced(held.replacements(dict.fromkeys(model, 8)), model) == []
    assert held.extra_bytes == 0
    reason = held.unsupported_reason(8)
    assert reason is not None
    assert "int8 does not pay here" in reason
    assert "0.97" in reason


def test_a_winning_kernel_has_no_reason_against_it(quantized_wins: None) -> None:
    assert cache_of(layers()).unsupported_reason(8) is None


def keeps(layer: nn.Linear) -> QuantizedLinear:
    copy = int8_weights(layer)
    return replace(copy, one_row=lambda row: copy.one_row(row))


def rounds(layer: nn.Linear) -> QuantizedLinear:
    copy = int8_weights(layer)
    return replace(copy, one_row=lambda row: copy.one_row(row))


@pytest.mark.parametrize(("rounding", "chosen"), [((0.42, 0.3), keeps), ((0.2, 0.45), rounds)])
def test_one_kernel_for_all_shapes_the_one_that_gains_most_in_the_whole_model(
    monkeypatch: pytest.MonkeyPatch, rounding: Sequence[float], chosen: Kernel
) -> None:
    """Two layers, the first twice as large; the kernel that keeps rows takes 0.45 and 0.4."""
    seconds = {"keeps": (0.45, 0.4), "rounds": rounding}

    def measure(
        operations: Sequence[Callable[[Tensor], Tensor]], row: Tensor, *_: object
    ) -> float:
        name = operations[0].__qualname__.split(".")[0]
        return seconds[name][row.shape[-1] == 96] if name in seconds else 1.0

    monkeypatch.setattr(quantized_linear, "measure_seconds", measure)
    model = layers()
    held = QuantizedLinearCache(model, (), lambda layer: layer.forward, {8: (keeps, rounds)})
    found = [held._choice(layer, 8).kernel for layer in model]
    assert found == [chosen, chosen]


def absent(layer: nn.Linear) -> QuantizedLinear:
    raise NotImplementedError("no kernel on this device")


@pytest.mark.parametrize("bits", [8, 4])
def test_without_a_kernel_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    monkeypatch.setattr(quantized_linear, "KERNELS", {8: (absent,), 4: (absent,)})
    model = layers()
    held = cache_of(model)
    assert replaced(held.replacements(dict.fromkeys(model, bits)), model) == []
    reason = held.unsupported_reason(bits)
    assert reason == f"no kernel here multiplies this model's layers in int{bits}"


def test_shapes_unsupported_by_int4_are_left_alone(quantized_wins: None) -> None:
    """int4 needs multiples of 32 inputs and of 16 channels."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 40), nn.Linear(40, 64))
    assert replaced(cache_of(model).replacements(dict.fromkeys(model, 4)), model) == [model[0]]


def test_a_kernel_that_computes_something_else_is_not_used(
    quantized_wins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(layer: nn.Linear) -> QuantizedLinear:
        copy = int8_weights(layer)
        return QuantizedLinear(lambda row: 1.2 * copy.one_row(row), copy.many_rows, copy.size)

    monkeypatch.setattr(quantized_linear, "KERNELS", {8: (wrong,)})
    model = layers()
    assert replaced(cache_of(model).replacements(dict.fromkeys(model, 8)), model) == []


@torch.inference_mode()
def test_a_layer_that_loses_too_much_accuracy_keeps_its_weights(quantized_wins: None) -> None:
    """An outlier in each channel leaves the other weights no precision at 8 bits."""
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(2)))
    model[1].weight[:] = torch.randn(64, 64) / 64
    model[1].weight[:, 0] = float("nan")
    assert replaced(cache_of(model).replacements(dict.fromkeys(model, 8)), model) == [model[0]]


def test_other_dtypes_are_quantized_too(quantized_wins: None) -> None:
    model = layers().to(torch.bfloat16)
    row = torch.ones(1, 1, 64, dtype=torch.bfloat16)
    with Patch(cache_of(model).replacements(dict.fromkeys(model, 8))):
        assert model(row).dtype == torch.bfloat16


class Integers(torch.Tensor):
    """A tensor class of a library, which is called float and may hold anything."""


def test_layers_whose_weights_are_of_another_class_have_no_copies() -> None:
    layer = nn.Linear(64, 64)
    assert is_plain_linear(layer)
    layer.weight = nn.Parameter(torch.randn(64, 64).as_subclass(Integers))
    assert not is_plain_linear(layer)
