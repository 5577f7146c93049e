"""How fast each kernel reads weights: products of a few rows with matrices that no cache holds.

    python -m benchmarks.kernels > results/kernels.md

All are measured in one process, one after the other, beside the sum of a large tensor: that is
what the memory gives at best. Nothing else may run meanwhile. torchao's quantized layers take part
where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.result_files import environment_lines
from skipopt.environment import environment_record
from skipopt.kernels.native import (
    NativeKernels,
    NativeWeight,
    float_weight,
    int4_weight,
    int8_weight,
    native_kernels,
)
from skipopt.kernels.packed_linear import PACK_HINT

# Outputs and inputs: SmolLM2-135M, Gemma-3-270M, a Llama with 1024 channels, and a larger one.
SHAPES = (
    (49152, 576), (1536, 576), (576, 1536), (576, 576),
    (262144, 640), (2048, 640), (640, 2048),
    (2816, 1024), (1024, 1024),
    (4096, 4096),
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16)
INT4_GROUP = 32
REPEATS = 5  # the fastest counts

Product = Callable[[Tensor], object]
Kernel = Callable[[Tensor], tuple[Product, int]]  # of a weight: its product, and bytes read


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    print("# What kernels read\n")
    print(f"`python -m benchmarks.kernels --threads {given.threads}`\n")
    print(
        *environment_lines(environment_record("cpu", "float32", "none", given.threads)), sep="\n"
    )
    if importlib.util.find_spec("torchao"):
        print(f"- torchao: {importlib.metadata.version('torchao')}")
    for name, micros in overheads().items():
        print(f"- a call of {name}: {micros:.0f} µs beside the reading")
    for shape in SHAPES:
        print_shape(shape, given.rows, given.megabytes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument(
        "--megabytes", type=int, default=200, help="read in turn: several times the last cache"
    )
    return parser.parse_args()


@torch.inference_mode()
def print_shape(shape: tuple[int, int], rows: Sequence[int], megabytes: int) -> None:
    """A table of GB/s of the bytes that each kernel reads, over numbers of rows."""
    n, k = shape
    print(f"\n{n} × {k}, GB/s of each kernel's own bytes; ", end="")
    print(f"a sum of a large tensor reads {limit(megabytes):.0f}:\n")
    print("| | " + " | ".join(f"{m} rows" if m > 1 else "1 row" for m in rows) + " |")
    print("|---|" + "--:|" * len(rows))
    for name, kernel in kernels().items():
        _, size = kernel(torch.ones(n, k))
        count = max(1, round(megabytes * 1e6 / size))
        products = [kernel(torch.randn(n, k) / k**0.5)[0] for _ in range(count)]
        speeds = [count * size / seconds(products, torch.randn(m, k)) * 1e-9 for m in rows]
        print(f"| {name} | " + " | ".join(f"{speed:.0f}" for speed in speeds) + " |")


def overheads() -> dict[str, float]:
    """Microseconds of a tiny product by kernel: what Python and the library add to each call."""
    tiny, row = torch.ones(16, 64), torch.ones(1, 64)
    return {
        name: seconds([kernel(tiny)[0]] * 200, row) / 200 * 1e6
        for name, kernel in kernels().items()
    }


def kernels() -> dict[str, Kernel]:
    """Kernels by name, those that this machine has."""
    found: dict[str, Kernel] = {"torch, float32": torch_product}
    if torch.backends.mkldnn.is_available():
        found["oneDNN, packed float32"] = packed_product
    found |= {"torch, int8 packed": int8_packed_product, "torch, int4 packed": int4_packed_product}
    if importlib.util.find_spec("torchao"):
        found["torchao, int8 weights"] = torchao_product
    native = native_kernels()
    if native is not None:
        formats: dict[str, Callable[[Tensor], NativeWeight]] = {
            "float32": float_weight,
            "bfloat16": lambda weight: float_weight(weight.bfloat16()),
            "int8": int8_weight,
            "int8, 8-bit rows": lambda weight: int8_weight(weight, rows=True),
            "int4": int4_weight,
            "int4, 8-bit rows": lambda weight: int4_weight(weight, rows=True),
        }
        for name, convert in formats.items():
            found[f"skipopt, {name}"] = native_product(native, convert)
    return found


def torch_product(weight: Tensor) -> tuple[Product, int]:
    return lambda rows: functional.linear(rows, weight), weight.nbytes


def packed_product(weight: Tensor) -> tuple[Product, int]:
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight, PACK_HINT)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda rows: multiply(rows, packed, None, "none", [], ""), weight.nbytes


def int8_packed_product(weight: Tensor) -> tuple[Product, int]:
    """torch's int8 product by channel; its rows are bfloat16, with which it is fastest."""
    scales = weight.abs().amax(-1) / 127
    values = (weight / scales[:, None]).round().to(torch.int8)
    half = scales.bfloat16()
    return lambda rows: torch._weight_int8pack_mm(rows.bfloat16(), values, half), values.nbytes


def int4_packed_product(weight: Tensor) -> tuple[Product, int]:
    """torch's int4 product in groups of 32; its rows are bfloat16."""
    n, k = weight.shape
    values = torch.randint(0, 16, (n, k), dtype=torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
    scales = torch.ones(k // INT4_GROUP, n, 2, dtype=torch.bfloat16)
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu.default

    def product(rows: Tensor) -> object:
        return multiply(rows.bfloat16(), packed, INT4_GROUP, scales)

    return product, packed.nbytes + scales.nbytes


def torchao_product(weight: Tensor) -> tuple[Product, int]:
    """torchao's int8 weights, uncompiled: `Int8WeightOnlyConfig`."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data.copy_(weight)
    layer = nn.Sequential(linear)
    quantize_(layer, Int8WeightOnlyConfig())
    return layer, weight.numel()


def native_product(native: NativeKernels, convert: Callable[[Tensor], NativeWeight]) -> Kernel:
    def kernel(weight: Tensor) -> tuple[Product, int]:
        copy = convert(weight)
        size = copy.data.nbytes + (0 if copy.groups is None else copy.groups.nbytes)
        return lambda rows: native.multiply(rows, copy), size

    return kernel


def seconds(products: Sequence[Product], rows: Tensor) -> float:
    """Of all products once, the fastest time."""
    for product in products:
        product(rows)
    return min(timed(products, rows) for _ in range(REPEATS))


def timed(products: Sequence[Product], rows: Tensor) -> float:
    began = time.perf_counter()
    for product in products:
        product(rows)
    return time.perf_counter() - began


def limit(megabytes: int) -> float:
    """GB/s of summing a tensor that no cache holds."""
    values = torch.ones(megabytes * 250_000)
    return values.nbytes / seconds([torch.sum] * 3, values) * 3e-9


if __name__ == "__main__":
    main()
