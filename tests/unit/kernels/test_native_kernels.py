"""The compiled kernels: exact to rounding, a row alone as among others, safe to share."""

from __future__ import annotations

import _ctypes
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skipopt.errors import SkipoptError
from skipopt.kernels import native
from skipopt.kernels.native import (
    GROUP_SIZE,
    INT4_MULTIPLE,
    NativeKernels,
    NativeWeight,
    WeightFormat,
    float_weight,
    int4_weight,
    int8_weight,
    native_kernels,
)

LIBRARY = native_kernels()
SETS = LIBRARY.supported if LIBRARY else ("none",)
FORMATS = list(WeightFormat)
SHAPES = [(1, 1), (3, 5), (17, 16), (3, 31), (1, 63), (17, 64), (3, 65), (50, 100), (130, 128)]
SHAPES += [(5, 192), (33, 576), (4, 777), (9, 1536), (5, 4160)]
MAX_ERROR = 2e-6  # of the sum of the magnitudes of an output's terms

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libskipopt.so is not built")


@pytest.fixture(params=SETS)
def each_set(request: pytest.FixtureRequest, kernels: NativeKernels) -> NativeKernels:
    """The kernels, on one of the instruction sets of this machine."""
    kernels.use(request.param)
    return kernels


@pytest.fixture
def kernels() -> Iterator[NativeKernels]:
    """The kernels, on one thread; instruction set and threads are put back afterwards."""
    assert LIBRARY is not None
    before, threads = LIBRARY.instruction_set, torch.get_num_threads()
    torch.set_num_threads(1)
    yield LIBRARY
    LIBRARY.use(before)
    torch.set_num_threads(threads)


def weight_of(form: WeightFormat, n: int, k: int, bias: bool = False) -> NativeWeight:
    """Random weights in one of the formats."""
    values = torch.randn(n, k, generator=torch.Generator().manual_seed(n * 10_000 + k))
    offsets = torch.arange(n).float() / n if bias else None
    if form == WeightFormat.FLOAT32:
        return float_weight(values, offsets)
    if form == WeightFormat.BFLOAT16:
        return float_weight(values.bfloat16(), offsets)
    rows = form in (WeightFormat.INT8_ROWS, WeightFormat.INT4_ROWS)
    make = int8_weight if form in (WeightFormat.INT8, WeightFormat.INT8_ROWS) else int4_weight
    return make(values, offsets, rows)


def rows_of(m: int, k: int) -> Tensor:
    generator = torch.Generator().manual_seed(m * 10_000 + k)
    return torch.randn(m, k, generator=generator) + 0.1


def allowed(form: WeightFormat, k: int) -> bool:
    return k % INT4_MULTIPLE == 0 or form < WeightFormat.INT4


def rounded(rows: Tensor) -> Tensor:
    """Rows as 8-bit numbers times a scale."""
    largest = rows.abs().amax(1, keepdim=True)
    return (rows * (127 / largest)).round().double() * (largest / 127).double()


def terms(rows: Tensor, weight: NativeWeight) -> tuple[Tensor, Tensor]:
    """Rows and weights in float64, with the minima of int4 as further inputs."""
    whole = weight.format in (WeightFormat.INT8_ROWS, WeightFormat.INT4_ROWS)
    inputs = rounded(rows) if whole else rows.double()
    if weight.groups is None:
        scales = 1 if weight.scales is None else weight.scales[:, None].double()
        return inputs, weight.data.double() * scales
    scales, minima = weight.groups.double()
    packed = weight.data.view(weight.n, -1, GROUP_SIZE)
    values = torch.cat([packed & 15, packed >> 4], -1).view(weight.n, -1, GROUP_SIZE)
    values = (values * scales[..., None]).view(weight.n, weight.k)
    sums = rows.double().view(len(rows), -1, GROUP_SIZE).sum(-1)
    return torch.cat([inputs, sums], 1), torch.cat([values, minima], 1)


def assert_exact(kernels: NativeKernels, rows: Tensor, weight: NativeWeight) -> None:
    found = kernels.multiply(rows, weight)
    inputs, values = terms(rows, weight)
    bias = 0 if weight.bias is None else weight.bias.double()
    error = (found.double() - (inputs @ values.T + bias)).abs()
    assert (error <= MAX_ERROR * (inputs.abs() @ values.abs().T + 1)).all(), error.max()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bias", [False, True])
def test_products_of_all_shapes_are_exact_to_rounding(
    each_set: NativeKernels, form: WeightFormat, bias: bool
) -> None:
    for n, k in SHAPES:
        if allowed(form, k):
            weight = weight_of(form, n, k, bias)
            for m in (1, 2, 3, 4, 5, 8, 17):
                assert_exact(each_set, rows_of(m, k), weight)


@pytest.mark.parametrize("form", FORMATS)
def test_any_number_of_rows_and_a_row_is_the_same_alone_and_among_others(
    each_set: NativeKernels, form: WeightFormat
) -> None:
    for n, k in ((37, 576), (19, 1536), (7, 192), (5, 4160)):
        weight, rows = weight_of(form, n, k, bias=True), rows_of(17, k)
        alone = torch.cat([each_set.multiply(row, weight) for row in rows.split(1)])
        for m in range(1, 18):
            assert_exact(each_set, rows[:m], weight)
            assert torch.equal(each_set.multiply(rows[:m], weight), alone[:m]), (n, k, m)


@pytest.mark.parametrize("form", FORMATS)
def test_a_result_does_not_depend_on_the_number_of_threads(
    each_set: NativeKernels, form: WeightFormat
) -> None:
    for n, k in ((3001, 192), (130, 1536), (18, 64)):
        weight = weight_of(form, n, k)
        for m in (1, 5, 9):
            rows, found = rows_of(m, k), []
            for threads in (1, 2, 3, 4):
                torch.set_num_threads(threads)
                found.append(each_set.multiply(rows, weight))
            torch.set_num_threads(1)
            assert_exact(each_set, rows, weight)
            assert all(torch.equal(each, found[0]) for each in found), (n, k, m)


def test_the_largest_of_each_row(each_set: NativeKernels) -> None:
    for n in (1, 7, 255, 256, 257, 4099, 49_152):
        rows = torch.randn(3, n + 5, generator=torch.Generator().manual_seed(n))[:, :n]
        rows[1].mul_(0.01).add_(torch.arange(n) / n)  # each larger than those before
        rows[2, n // 2] = float("inf")
        for count in {1, min(2, n), min(8, n), min(300, n)}:
            expected = rows.sort(dim=-1, descending=True, stable=True).indices[:, :count]
            assert each_set.top(rows, count) == expected.tolist()
    equal = torch.zeros(2, 600)
    equal[1, [5, 299, 300]] = 1.0
    assert each_set.top(equal, 4) == [[0, 1, 2, 3], [5, 299, 300, 0]]
    hidden = torch.full((1, 600), -float("inf"))
    hidden[0, 555] = 0.0
    assert each_set.top(hidden, 2) == [[555, 0]]


@pytest.mark.parametrize("form", FORMATS)
def test_addresses_need_no_alignment(each_set: NativeKernels, form: WeightFormat) -> None:
    for n, k in ((5, 576), (3, 128)):
        weight = weight_of(form, n, k, bias=True)
        parts = [None if each is None else shifted(each) for each in weight[3:]]
        assert_exact(each_set, shifted(rows_of(3, k)), NativeWeight(*weight[:3], *parts))  # type: ignore[arg-type]


def shifted(tensor: Tensor) -> Tensor:
    """A copy that begins one element after an aligned address."""
    buffer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    view = buffer[1:].view(tensor.shape)
    assert view.data_ptr() % 64
    return view.copy_(tensor)


def test_rows_of_zeros_and_huge_rows(each_set: NativeKernels) -> None:
    for form in FORMATS:
        weight = weight_of(form, 20, 128)
        rows = torch.stack([torch.zeros(128), 1e30 * rows_of(1, 128)[0], 1e-30 * torch.ones(128)])
        found = each_set.multiply(rows, weight)
        assert found[0].abs().max() == 0
        assert found.isfinite().all()
        assert found[1].abs().max() > 1e29


def test_values_of_a_weight_are_read_anew(kernels: NativeKernels) -> None:
    values, rows = torch.randn(200, 64), rows_of(2, 64)
    weight = float_weight(values)
    before = kernels.multiply(rows, weight)
    values.mul_(2)
    assert torch.equal(kernels.multiply(rows, weight), 2 * before)


def test_products_do_not_alternate_between_states(kernels: NativeKernels) -> None:
    """Weights and rows of many sizes, one after the other."""
    torch.set_num_threads(2)
    cases = [
        (weight_of(form, n, 64), rows_of(m, 64)) for form in FORMATS for n, m in ((3, 9), (90, 1))
    ]
    expected = [kernels.multiply(rows, weight) for weight, rows in cases]
    for _ in range(50):
        for (weight, rows), right in zip(cases, expected, strict=True):
            assert torch.equal(kernels.multiply(rows, weight), right)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.timeout(60)
def test_thousands_of_tiny_products_end(kernels: NativeKernels, threads: int) -> None:
    torch.set_num_threads(threads)
    weight, rows = weight_of(WeightFormat.FLOAT32, 64, 64), rows_of(2, 64)
    expected = kernels.multiply(rows, weight)
    for i in range(3000):
        if i % 1000 == 0:
            time.sleep(0.01)  # until the threads sleep
        assert torch.equal(kernels.multiply(rows, weight), expected)


@pytest.mark.timeout(60)
def test_many_python_threads_may_multiply_at_once(kernels: NativeKernels) -> None:
    torch.set_num_threads(2)
    cases = [(weight_of(form, 300, 192), rows_of(m, 192)) for form in FORMATS for m in (1, 4)]
    expected = [kernels.multiply(rows, weight) for weight, rows in cases]

    def work(first: int) -> bool:
        order = [(first + i) % len(cases) for i in range(60)]
        return all(
            torch.equal(kernels.multiply(rows_, weight_), expected[i])
            for i in order
            for weight_, rows_ in [cases[i]]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_a_forked_process_multiplies_with_threads_of_its_own(kernels: NativeKernels) -> None:
    torch.set_num_threads(2)
    weight, rows = weight_of(WeightFormat.FLOAT32, 3000, 64), rows_of(3, 64)
    expected = kernels.multiply(rows, weight)

    def child(reply: Connection) -> None:
        same = [kernels.multiply(rows, weight).tolist() == expected.tolist() for _ in range(20)]
        reply.send(all(same))

    context = multiprocessing.get_context("fork")
    for _ in range(3):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(sender,))
        process.start()
        answered = receiver.poll(15)
        process.kill()
        process.join()
        assert answered, "the child hangs"
        assert receiver.recv()
        assert torch.equal(kernels.multiply(rows, weight), expected)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_busy_neighbors_cost_no_more_than_their_share(kernels: NativeKernels) -> None:
    """Two processes that never rest take half of two cores: a factor of 2, not of 40."""
    torch.set_num_threads(2)
    weight, rows = weight_of(WeightFormat.FLOAT32, 2000, 512), rows_of(1, 512)

    def products() -> None:
        for _ in range(200):
            kernels.multiply(rows, weight)

    alone = fastest(products)
    with ExitStack() as stack:
        for _ in range(2):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        time.sleep(0.5)
        beside = fastest(products)
    assert beside < 10 * alone, (alone, beside)


def fastest(function: Callable[[], None], repeats: int = 5) -> float:
    """Seconds of the fastest run of some."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return min(taken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_quantized_in_blocks_are_those_quantized_at_once(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both formulas at once over a weight of several blocks, the last of which is shorter."""
    torch.manual_seed(0)
    weight = torch.randn(1500, 192).to(dtype)
    monkeypatch.setattr(native, "BLOCK_VALUES", 400 * 192)
    values = weight.float()
    scales = values.abs().amax(1) / 127
    eight = native.int8_weight(weight)
    assert eight.scales is not None
    assert torch.equal(eight.scales, scales)
    assert torch.equal(eight.data, (values / scales[:, None]).round().to(torch.int8))
    four = native.int4_weight(weight)
    assert four.groups is not None
    grouped = values.view(1500, -1, 32)
    minima = grouped.amin(-1).half()
    steps = ((grouped.amax(-1) - minima.float()) / 15).half()
    assert torch.equal(four.groups, torch.stack([steps, minima]))
    integers = (grouped - minima.float()[..., None]) / steps.float()[..., None]
    integers = integers.round().clamp(0, 15).to(torch.uint8).view(1500, -1, 2, 32)
    packed = integers[:, :, 0] | (integers[:, :, 1] << 4)
    assert torch.equal(four.data, packed.view(1500, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("each_set")
def test_int4_copies_are_those_of_torch_on_every_instruction_set(dtype: torch.dtype) -> None:
    """Also of values whose scales and minima are very small or large in float16."""
    torch.manual_seed(0)
    weight = torch.randn(90, 192)
    weight[3] = 0.0
    weight[4] *= 1e-6
    weight[5] *= 1e4
    weight[6, :32] = 0.25
    weight[7:40] *= 2.0 ** torch.arange(-20, 13)[:, None]
    copy = native.int4_weight(weight.to(dtype))
    data, groups = torch.empty_like(copy.data), torch.empty(2, 90, 6, dtype=torch.float16)
    native._quantize_int4(weight.to(dtype), data, groups)
    assert copy.groups is not None
    assert torch.equal(copy.groups, groups)
    assert torch.equal(copy.data, data)


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.usefixtures("each_set")
def test_int8_copies_are_alike_on_every_instruction_set(layout: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(37, 70) if layout == "rows" else torch.randn(70, 37).t()
    weight[3] = 0.0
    scales = (weight.abs().amax(1) / 127).clamp(min=1e-12)
    copy = native.int8_weight(weight)
    assert copy.scales is not None
    assert torch.equal(copy.scales, scales)
    assert torch.equal(copy.data, (weight / scales[:, None]).round().to(torch.int8))


@pytest.mark.parametrize("kind", ["broken", "another library"])
def test_a_library_that_does_not_fit_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "libskipopt.so"
    if kind == "broken":
        path.write_text("no library")
    else:
        shutil.copy(_ctypes.__file__, path)
    with pytest.raises(SkipoptError) as caught:
        NativeKernels(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "reinstall" in (caught.value.hint or "")


def test_a_library_of_another_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    with pytest.raises(SkipoptError, match="other sources"):
        NativeKernels(native.LIBRARY)
