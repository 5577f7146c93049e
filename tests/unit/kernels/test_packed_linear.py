"""Packed linear layers compute the same, and are restored after every forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tiny import tiny_llama, tiny_prompts, tiny_target
from torch import Tensor, nn

from skipopt.decoding.api import generate
from skipopt.kernels import packed_linear
from skipopt.kernels.packed_linear import LinearKernels, PackedLinear, choose_kernels
from skipopt.models.patch import Patch
from skipopt.runtime.load import make_target

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch cannot pack weights"
)


def racing(winner: Callable[[int], str]) -> Callable[..., float]:
    """Kernel timings with a given winner for each number of rows."""

    def race(operations: list[Callable[[Tensor], Tensor]], given: Tensor, others: Tensor) -> float:
        packed = "pack_linear" in operations[0].__qualname__
        return 1.0 if packed == (winner(given.shape[1]) == "packed") else 2.0

    return race


def two_layers(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40, bias=bias), nn.Linear(40, 24, bias=bias))


def replaced(kernels: LinearKernels, model: nn.Module) -> list[nn.Module]:
    with kernels.patch:
        return [m for m in model.modules() if "forward" in m.__dict__]


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 9, 33])
def test_packed_layers_compute_the_same(packed_wins: None, bias: bool, rows: int) -> None:
    model = two_layers(bias)
    kernels = choose_kernels(model)
    given = torch.randn(1, rows, 24)
    expected = model(given)
    assert len(replaced(kernels, model)) == 2
    with kernels.patch:
        found = model(given)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


def test_packed_copies_are_counted(packed_wins: None) -> None:
    kernels = choose_kernels(two_layers())
    assert kernels.name == "prepacked"
    assert kernels.extra_bytes == 2 * 24 * 40 * 4


def test_patch_restores_what_was_there(packed_wins: None) -> None:
    model = two_layers()
    kernels = choose_kernels(model)
    with pytest.raises(RuntimeError, match="inside"), kernels.patch:
        raise RuntimeError("inside")
    assert all("forward" not in m.__dict__ for m in model.modules())
    assert len(replaced(kernels, model)) == 2, "it can be applied again"


def test_patch_puts_back_an_earlier_replacement() -> None:
    layer = nn.Linear(2, 2)
    layer.forward = earlier = lambda x: x  # type: ignore[method-assign]
    with Patch([(layer, lambda x: 2 * x)]):
        assert torch.equal(layer(torch.ones(1)), torch.full((1,), 2.0))
    assert layer.forward is earlier


def test_patch_is_not_applied_twice() -> None:
    patch = Patch([(nn.Linear(2, 2), lambda x: x)])
    with patch, pytest.raises(RuntimeError, match="already applied"):
        patch.__enter__()


class Quantized(nn.Linear):
    """A linear layer with a forward of its own."""


def test_layers_of_another_class_are_left_alone(packed_wins: None) -> None:
    model = nn.Sequential(Quantized(8, 8), nn.Linear(8, 8))
    assert replaced(choose_kernels(model), model) == [model[1]]


def test_layers_with_hooks_are_left_alone(packed_wins: None) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].forward = hooked = model[0].forward
    kernels = choose_kernels(model)
    with kernels.patch:
        assert model[0].__dict__["forward"] is hooked
        assert "forward" in model[1].__dict__


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_alone(packed_wins: None, dtype: torch.dtype) -> None:
    kernels = choose_kernels(two_layers().to(dtype))
    assert (kernels.name, kernels.extra_bytes) == ("eager", 0)


def test_modules_that_masks_replace_are_left_alone(packed_wins: None) -> None:
    model = two_layers()
    assert replaced(choose_kernels(model, {model[0]}), model) == [model[1]]


def test_layer_that_never_wins_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "measure_seconds", racing(lambda rows: "plain"))
    assert choose_kernels(two_layers()).name == "eager"


def test_layer_whose_packed_product_is_wrong_is_left_alone(
    packed_wins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = packed_linear.pack_linear

    def wrong(layer: nn.Linear) -> PackedLinear:
        packed = right(layer)
        return packed._replace(forward=lambda x: 1.01 * packed.forward(x))

    monkeypatch.setattr(packed_linear, "pack_linear", wrong)
    assert choose_kernels(two_layers()).name == "eager"


@torch.inference_mode()
@pytest.mark.parametrize(
    ("winner_of_one", "packed_rows"), [("packed", [1, 2, 9]), ("plain", [2, 9])]
)
def test_single_and_several_rows_each_use_the_faster_kernel(
    monkeypatch: pytest.MonkeyPatch, winner_of_one: str, packed_rows: list[int]
) -> None:
    """A packed layer must win with several rows; single rows are timed separately."""
    race = racing(lambda rows: winner_of_one if rows == 1 else "packed")
    monkeypatch.setattr(packed_linear, "measure_seconds", race)
    used: list[int] = []
    real = packed_linear.pack_linear

    def pack_linear(layer: nn.Linear) -> PackedLinear:
        packed = real(layer)

        def forward(input: Tensor) -> Tensor:
            used.append(input.shape[1])
            return packed.forward(input)

        return packed._replace(forward=forward)

    monkeypatch.setattr(packed_linear, "pack_linear", pack_linear)
    model = two_layers()[:1]
    kernels = choose_kernels(model)
    used.clear()
    with kernels.patch:
        for rows in (1, 2, 9):
            model(torch.ones(1, rows, 24))
    assert used == packed_rows


def test_layer_that_wins_with_one_row_only_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        packed_linear, "measure_seconds", racing(lambda rows: "packed" if rows == 1 else "plain")
    )
    assert choose_kernels(two_layers()).name == "eager"


def test_decoding_with_packed_weights_gives_the_same_tokens(packed_wins: None) -> None:
    model = tiny_llama()
    eager, packed = tiny_target(model), make_target(model, None, runtime="prepacked")
    assert packed.runtime.name == "prepacked"
    for prompt in tiny_prompts(3):
        texts = [[t.id for t in generate(t, prompt, max_new_tokens=24)] for t in (eager, packed)]
        assert texts[0] == texts[1]
    assert all("forward" not in m.__dict__ for m in model.modules())
