"""Products with some rows of a weight: those of the whole product, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.native import kernels as library
from support.native import needs_native
from torch import Tensor

from skipopt.kernels.native import NativeKernels, float_weight, native_kernels
from skipopt.kernels.native_linear import linear_rows

pytestmark = needs_native
LIBRARY = native_kernels()
SETS = LIBRARY.supported if LIBRARY else ("none",)
LISTS = {
    "one": [41],
    "first and last": [0, 96],
    "runs": [0, 1, 2, 3, 4, 5, 9, 10, 11, 50, 52, 94, 95, 96],
    "scattered": list(range(1, 97, 3)),
    "all": list(range(97)),
    "unordered": [96, 3, 4, 2, 2],
}


@pytest.fixture(params=SETS)
def each_set(request: pytest.FixtureRequest) -> Iterator[NativeKernels]:
    """The kernels on each instruction set, on one thread."""
    found, threads = library(), torch.get_num_threads()
    before = found.instruction_set
    torch.set_num_threads(1)
    found.use(request.param)
    yield found
    found.use(before)
    torch.set_num_threads(threads)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("ids", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_listed_rows_are_exact_and_those_of_the_whole_product(
    each_set: NativeKernels, ids: list[int], dtype: torch.dtype, bias: bool
) -> None:
    """Widths with a tail, and rows at addresses of any alignment."""
    rows = torch.tensor(ids)
    offsets = random(97) if bias else None
    for k in (1, 31, 64, 577, 1536):
        weight = random(97 * k + 1).to(dtype)[1:].view(97, k)
        for m in (1, 3, 9):
            x = random(m, k)
            found = each_set.multiply(x, float_weight(weight, offsets, rows))
            whole = each_set.multiply(x, float_weight(weight, offsets))
            assert torch.equal(found, whole[:, rows])
            chosen = weight[rows].double()
            exact = x.double() @ chosen.T + (0 if offsets is None else offsets[rows].double())
            size = x.double().abs() @ chosen.abs().T + 3
            assert ((found.double() - exact).abs() <= 2e-6 * size).all()


def test_a_long_list_is_the_same_on_any_number_of_threads(each_set: NativeKernels) -> None:
    weight, rows = random(5000, 64), torch.arange(0, 5000, 2)
    rows = torch.cat([torch.arange(1000), rows[rows >= 1000]])
    x, found = random(2, 64), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(each_set.multiply(x, float_weight(weight, None, rows)))
    assert all(torch.equal(each, found[0]) for each in found)
    assert torch.allclose(found[0], x @ weight[rows].T, atol=1e-4)


def test_the_operator_takes_any_leading_dimensions() -> None:
    weight, rows, x = random(20, 8), torch.tensor([3, 19]), random(2, 3, 8)
    found = linear_rows(x, weight, rows, None)
    assert found.shape == (2, 3, 2)
    assert torch.allclose(found, (x @ weight.T)[..., rows], atol=1e-5)
