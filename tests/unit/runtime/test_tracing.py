"""Recorded operations: what cannot be recorded, graphs of them, and fused linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.step_cache import near
from torch import Tensor, nn

from skipopt.kernels.packed_linear import choose_kernels
from skipopt.kernels.quantized_kernels import int8_dynamic
from skipopt.runtime.fx_graph import PYTHON_FUNCTIONS, program
from skipopt.runtime.linear_fusion import LINEAR_OPS, LinearFuser
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


def test_a_program_gives_the_same_results_for_other_inputs() -> None:
    state = torch.zeros(3)

    def call(x: Tensor, y: Tensor) -> Sequence[Tensor]:
        state.add_(x)
        first, second = (x * 2).split([1, 2])
        return [x.softmax(-1) @ y, state * 2, x, x[1:], x[:-1], x.to(x.dtype), first, second]

    first, second = [(torch.randn(3), torch.randn(3, 2)) for _ in range(2)]
    with torch.inference_mode():
        recording, _ = record(call, first)
        run = program(recording)
        before = state.clone()
        found = run(*second)
        state.copy_(before)
        expected = call(*second)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_program_holds_what_is_no_tensor() -> None:
    """Packed weights of torch's quantized products are objects; infinity is no Python literal."""
    kernel = int8_dynamic(nn.Linear(64, 16))

    def call(x: Tensor) -> Sequence[Tensor]:
        return [kernel.one_row(x), x.masked_fill(x > 0, -float("inf")), x.to(torch.bfloat16)]

    rows = torch.randn(1, 64)
    with torch.inference_mode():
        run = program(record(call, [torch.randn(1, 64)])[0])
        for found, expected in zip(run(rows), call(rows), strict=True):
            assert torch.equal(found, expected)


PYTHON_FUNCTION_INPUTS: dict[str, tuple[Any, ...]] = {
    "cat": ([torch.ones(2, 3), torch.ones(2, 1)], -1),
    "expand": (torch.ones(1, 3), [2, 3]),
    "index_copy_": (torch.zeros(3, 2), 0, torch.tensor([1]), torch.ones(1, 2)),
    "linear": (torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)),
    "matmul": (torch.ones(2, 3), torch.ones(3, 2)),
    "mean": (torch.arange(6.0).view(2, 3), [-1], True),
    "reshape": (torch.arange(6.0), [2, -1]),
    "split_with_sizes": (torch.arange(6.0), [2, 4], -1),
    "transpose": (torch.arange(6.0).view(2, 3), 0, 1),
    "unsqueeze": (torch.arange(6.0), 1),
    "view": (torch.arange(6.0), [2, -1]),
    "mul.Scalar": (torch.arange(6.0), 3),
    "pow": (torch.arange(6.0), 2),
}


@pytest.mark.parametrize("operator", PYTHON_FUNCTIONS, ids=str)
def test_python_functions_do_what_their_operators_do(operator: Any) -> None:
    name = operator._schema.name.split("::")[1]
    default = (torch.arange(6.0), torch.full((6,), 2.0))[: len(operator._schema.arguments)]
    full = str(operator).removeprefix("aten.")
    given = PYTHON_FUNCTION_INPUTS.get(full) or PYTHON_FUNCTION_INPUTS.get(name, default)
    if "alpha" in str(operator._schema) or name in ("neg", "rsqrt", "tanh"):
        given = default if "alpha" in str(operator._schema) else default[:1]
    expected, found = operator(*given), PYTHON_FUNCTIONS[operator](*given)
    pairs = zip(expected, found, strict=True)
    assert type(expected) is type(found) or isinstance(found, tuple)
    assert all(torch.equal(a, b) for a, b in pairs)


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
        results = program(found)(*given)
    assert all(near(a, b) for a, b in zip(results, expected, strict=True))
    kinds = [operation.function for operation in found.sections[0]]
    return sum(kind in LINEAR_OPS for kind in kinds)


def test_linear_layers_that_cannot_be_fused_are_kept(packed_wins: None) -> None:
    assert products() == 1
    assert products(bias=True) == 2
    assert products(rewrite=True) == 2
    assert products(wide=True) == 2
