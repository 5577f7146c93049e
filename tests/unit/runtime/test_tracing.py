"""Recorded operations: what cannot be recorded, compiled sections, and fused linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.step_cache import near
from torch import Tensor, nn

from skipopt.kernels.packed_linear import choose_kernels
from skipopt.runtime.linear_fusion import LINEAR_OPS, FusedLinear, LinearFuser
from skipopt.runtime.torchscript import Compiler
from skipopt.runtime.tracing import CannotCaptureError, record


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + float(x.sum()),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x + x.argmax().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
    ],
)
def test_operations_that_depend_on_values_cannot_be_recorded(
    call: Callable[[Tensor], Tensor],
) -> None:
    with torch.inference_mode(), pytest.raises(CannotCaptureError):
        record(lambda x: [call(x)], [torch.randn(4)])


def test_a_compiled_program_gives_the_same_results_for_other_inputs() -> None:
    state = torch.zeros(3)

    def call(x: Tensor, y: Tensor) -> Sequence[Tensor]:
        state.add_(x)
        return [x.softmax(-1) @ y, state * 2, x]

    first, second = [(torch.randn(3), torch.randn(3, 2)) for _ in range(2)]
    with torch.inference_mode():
        recording, _ = record(call, first)
        program = Compiler().compile(recording, first)
        before = state.clone()
        found = program(*second)
        state.copy_(before)
        expected = call(*second)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("other", [1.5, 2])
def test_equal_sections_are_compiled_once(other: float) -> None:
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    factors = [1, 1, 1, 1, other]

    def call(x: Tensor) -> Sequence[Tensor]:
        for layer, factor in zip(layers, factors, strict=True):
            x = layer(x) * factor
        return [x]

    compiler, given = Compiler(), [torch.randn(2, 4)]
    with torch.inference_mode():
        recording, expected = record(call, given, list(layers))
        program = compiler.compile(recording, given)
        assert torch.equal(program(*given)[0], expected[0])
    # The last layer's factor is after the last section boundary.
    assert (len(recording.sections), compiler.num_compiled) == (6, 3)


def test_equal_numbers_of_different_types_are_compiled_separately() -> None:
    ints = torch.arange(3)

    def scaled(factor: Any) -> Callable[[Tensor], Sequence[Tensor]]:
        return lambda x: [x * factor]

    compiler = Compiler()
    with torch.inference_mode():
        for factor, dtype in ((1, torch.int64), (1.0, torch.float32)):
            recording, _ = record(scaled(factor), [ints])
            assert compiler.compile(recording, [ints])(ints)[0].dtype == dtype


def products(bias: bool = False, rewrite: bool = False, wide: bool = False) -> int:
    """Number of linear operations left of two on one input."""
    size = 1100 if wide else 8
    layers = [nn.Linear(size, size, bias=bias and not i) for i in range(2)]
    kernels = choose_kernels(nn.ModuleList(layers))

    def call(x: Tensor) -> Sequence[Tensor]:
        x = x * 2
        with kernels.patch:
            first = layers[0](x)
            if rewrite:
                x.add_(1)
            return [first, layers[1](x)]

    given = [torch.randn(2, size)]
    with torch.inference_mode():
        recording, expected = record(call, given)
        found = LinearFuser(kernels.unpacked_weights).fuse(recording)
        results = Compiler().compile(found, given)(*given)
    assert all(near(a, b) for a, b in zip(results, expected, strict=True))
    kinds = [operation.function for operation in found.sections[0]]
    return sum(kind in LINEAR_OPS or isinstance(kind, FusedLinear) for kind in kinds)


def test_linear_layers_that_cannot_be_fused_are_kept(packed_wins: None) -> None:
    assert products() == 1
    assert products(bias=True) == 2
    assert products(rewrite=True) == 2
    assert products(wide=True) == 2
