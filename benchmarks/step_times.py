"""Where the time of a step goes: seconds of each kind of instruction of native steps.

    python -m benchmarks.step_times MODEL --threads 2 --output results/step-times

Steps of 1, 4 and 8 rows and drafts of one row in int8 and int4, interleaved. Whole steps are timed
apart from their instructions, so `Python` is the difference of two medians.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import skipopt
from benchmarks.result_files import page_head, write_results
from benchmarks.stock_speed import bandwidth, draft_step
from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.native_step import NativeStep

ROWS = (1, 4, 8)
Instructions = list[tuple[str, float]]  # what each does, and its seconds


def steps_of(target: Target, engine: Engine) -> dict[str, Callable[[], object]]:
    """The steps that are timed, by name."""
    steps: dict[str, Callable[[], object]] = {
        f"v({rows})": lambda rows=rows: engine.step(list(range(7, 7 + rows)))  # type: ignore[misc]
        for rows in ROWS
    }
    mask = SkipMask.empty(target.depth)
    for bits in (8, 4):
        if target.runtime.quantized.unsupported_reason(bits) is None:
            steps[f"int{bits} draft"] = draft_step(engine, mask, DraftConfig(weight_bits=bits))
    return steps


def timed_instructions(step: Callable[[], object]) -> Instructions:
    """Of one native step, run as it is otherwise."""
    found: Instructions = []
    plain = NativeStep.__call__

    def timed(self: NativeStep, *given: Tensor) -> list[Tensor]:
        found.extend(self.timed(*given))
        return plain(self, *given)

    NativeStep.__call__ = timed  # type: ignore[method-assign]
    try:
        step()
    finally:
        NativeStep.__call__ = plain  # type: ignore[method-assign]
    return found


def measure(target: Target, context: int, repeats: int) -> dict[str, dict[str, Any]]:
    """By step: median seconds of the whole, and of each kind of instruction together."""
    engine = Engine(target, context + 64)
    engine.prefill([5 + i % 50 for i in range(context)])
    whole: dict[str, list[float]] = defaultdict(list)
    parts: dict[str, list[Instructions]] = defaultdict(list)
    with target.runtime.capture_immediately():
        for repeat in range(repeats + 1):
            for name, step in steps_of(target, engine).items():
                step()  # warms up: the very first one is recorded
                engine.rewind(context)
                began = time.perf_counter()
                step()
                seconds = time.perf_counter() - began
                engine.rewind(context)
                instructions = timed_instructions(step)
                engine.rewind(context)
                if repeat:
                    whole[name].append(seconds)
                    parts[name].append(instructions)
    return {
        name: {"seconds": median(whole[name]), "instructions": by_label(parts[name])}
        for name in whole
    }


def by_label(runs: Sequence[Instructions]) -> dict[str, dict[str, float]]:
    """Number and seconds of the instructions of each label: the sum of each one's median."""
    found: dict[str, dict[str, float]] = {}
    for each in zip(*runs, strict=True):
        kind = found.setdefault(each[0][0], {"count": 0, "seconds": 0.0})
        kind["count"] += 1
        kind["seconds"] += median(seconds for _, seconds in each)
    return dict(sorted(found.items(), key=lambda item: -item[1]["seconds"]))


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head(f"{record['model']}: where the time of a step goes", record)
    yield f"- `tensor.sum()` in the same process reads {record['bandwidth'] / 1e9:.1f} GB/s"
    plain = record["steps"]["v(1)"]["seconds"]
    for name, step in record["steps"].items():
        seconds = step["seconds"]
        rest = seconds - sum(part["seconds"] for part in step["instructions"].values())
        yield ""
        yield f"## {name}: {seconds * 1e3:.2f} ms, {seconds / plain:.2f} plain steps"
        yield ""
        yield "| instruction | number | ms | share |"
        yield "|---|--:|--:|--:|"
        for label, part in step["instructions"].items():
            yield line(label, int(part["count"]), part["seconds"], seconds)
        yield line("Python: inputs, results, choice of the step", 1, rest, seconds)


def line(label: str, count: int, seconds: float, whole: float) -> str:
    return f"| {label} | {count} | {seconds * 1e3:.3f} | {seconds / whole:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model, device="cpu", runtime="native", on_notice=print)
    record = {
        "model": Path(given.model).name,
        "command": f"python -m benchmarks.step_times MODEL --threads {given.threads} "
        f"--context {given.context} --repeats {given.repeats}",
        "environment": environment_of(target),
        "bandwidth": bandwidth(given.threads),
        "steps": measure(target, given.context, given.repeats),
    }
    write_results(given.output, record, list(report(record)))


if __name__ == "__main__":
    main()
