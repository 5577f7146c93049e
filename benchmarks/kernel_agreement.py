"""How often the model with quantized weights chooses the model's own next token, by kernel.

    python -m benchmarks.kernel_agreement NAME=MODEL=texts.memory … --output results/agreement

Each memory (`python -m benchmarks.remember_texts`) holds continuations of the model's calibration
prompts. Every linear layer is multiplied by the same kernel; `ACCEPTANCE` of
`skipopt.kernels.quantized_linear` is the mean over models.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import skipopt
from benchmarks.result_files import log, page_head, write_results
from skipopt.draft_memory.memory import DraftMemory
from skipopt.environment import environment_record
from skipopt.kernels.native import native_kernels
from skipopt.kernels.native_linear import native_kernels_of
from skipopt.kernels.plain_linear import is_plain_linear
from skipopt.kernels.quantized_kernels import KERNELS, Kernel
from skipopt.models.patch import Forward, Patch

Texts = Sequence[Sequence[int]]


@torch.inference_mode()
def choices(model: nn.Module, texts: Texts, tokens: int) -> list[Tensor]:
    """The likeliest token before each of the last `tokens` of each text."""
    ids = (torch.tensor([text]) for text in texts)
    return [model(each).logits[0, -tokens - 1 : -1].argmax(-1) for each in ids]


@torch.inference_mode()
def patch_of(model: nn.Module, kernel: Kernel) -> Patch:
    """Every linear layer through this kernel."""
    changes: list[tuple[nn.Module, Forward]] = [
        (layer, kernel(layer).many_rows) for layer in model.modules() if is_plain_linear(layer)
    ]
    return Patch(changes)


def measure(model: nn.Module, texts: Texts, tokens: int) -> Iterator[dict[str, Any]]:
    """A row for each kernel."""
    own = torch.cat(choices(model, texts, tokens))
    native = native_kernels()
    for bits, kernels in (KERNELS if native is None else native_kernels_of(native)).items():
        for kernel in kernels:
            with patch_of(model, kernel):
                found = torch.cat(choices(model, texts, tokens))
            agreement = float((found == own).float().mean())
            log(f"{kernel.__name__}: {agreement:.4f}")
            yield {"bits": bits, "kernel": kernel.__name__, "tokens": len(own), "same": agreement}


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head("How often quantized kernels leave the next token as it is", record)
    yield from ("", "| model | kernel | tokens | the same |", "|---|---|--:|--:|")
    for name, rows in record["models"].items():
        for row in rows:
            yield f"| {name} | {row['kernel']} | {row['tokens']} | {row['same']:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL=FILE")
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--output", type=Path, default=Path("results/kernel-agreement"))
    given = parser.parse_args()
    models = {}
    for each in given.models:
        name, model, path = each.split("=")
        texts = [list(text) for text in DraftMemory.load(path).texts()]
        target = skipopt.load(model, dtype="float32", device="cpu", on_notice=log)
        models[name] = list(measure(target.model, texts, given.tokens))
    shown = " ".join(f"{each.split('=')[0]}=MODEL=texts.memory" for each in given.models)
    command = f"python -m benchmarks.kernel_agreement {shown} --tokens {given.tokens}"
    environment = environment_record("cpu", "float32", "auto", torch.get_num_threads())
    record = {"command": command, "environment": environment, "models": models}
    write_results(given.output, record, list(report(record)))


if __name__ == "__main__":
    main()
