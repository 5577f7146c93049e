"""Speculation on batches: speedup and identity by batch size.

    python -m benchmarks.batches MODEL --output results/batches

Every repeat decodes the same prompts with every method in batches of 1, 2, 4 and 8, in an order
that is rotated and reversed from repeat to repeat. Speedups are over plain decoding of the same
batch size, paired by repeat. Each text is compared with plain decoding of its prompt alone.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import skipopt
from benchmarks.result_files import log, page_head, shown_path, write_results
from skipopt.measurement.batch_bench import (
    BatchRunner,
    BatchSample,
    batch_result,
    batch_runners,
    in_batches,
    plain_workload,
)
from skipopt.measurement.lossless import LosslessReport
from skipopt.measurement.prompts import encode_any
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import GREEDY, PLAIN
from skipopt.measurement.timing import run_order
from skipopt.measurement.workload import Workload
from skipopt.stats import Interval, ratio_interval

METHODS = (PLAIN, "layer-skip:gamma=4:quant=int8", "prompt-lookup", "suffix")
SIZES = (1, 2, 4, 8)
TOLD_ROWS = (1, 2, 4, 8, 16, 24, 32, 40)
MIN_REPEATS = 2


@dataclass(frozen=True, slots=True)
class Entrant:
    """A method with a batch size."""

    runner: BatchRunner
    size: int

    @property
    def key(self) -> tuple[str, int]:
        return self.runner.name, self.size


Times = dict[tuple[str, int], list[list[BatchSample]]]  # of each entrant the samples by repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, default=Path("results/batches"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=270.0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model)
    prompts = encode_any(target, None).ids[: given.prompts]
    workload = plain_workload(target, prompts, given.max_new_tokens)
    runners = batch_runners(target, given.methods.split(","), None, GREEDY)
    entrants = [Entrant(runner, size) for size in SIZES for runner in runners]
    log(f"{len(workload.prompts)} prompts, {sum(workload.lengths)} tokens")
    times = measure(entrants, workload, began + given.seconds)
    command = (
        f"python -m benchmarks.batches {shown_path(Path(given.model))} "
        f"--output {shown_path(given.output)} --max-new-tokens {given.max_new_tokens}"
    )
    record = make_record(command, environment_of(target), entrants, workload, times)
    write_results(given.output, record, page(record))


def measure(entrants: Sequence[Entrant], workload: Workload, until: float) -> Times:
    """Decode all prompts with every entrant, repeat by repeat while there is time."""
    for entrant in entrants:  # captures steps and makes quantized copies
        decode(entrant, workload, 0, most=1)
    times: Times = {entrant.key: [] for entrant in entrants}
    repeat, longest = 0, 0.0
    while repeat < MIN_REPEATS or time.perf_counter() + longest < until:
        began = time.perf_counter()
        for i in run_order(len(entrants), repeat // 2 * 5, repeat):
            times[entrants[i].key].append(decode(entrants[i], workload, repeat))
        longest = max(longest, time.perf_counter() - began)
        repeat += 1
        log(f"repeat {repeat}: {longest:.0f} s")
    return times


def decode(
    entrant: Entrant, workload: Workload, repeat: int, most: int | None = None
) -> list[BatchSample]:
    """Decode the batches, or the first `most` of them."""
    batches = in_batches(len(workload.prompts), entrant.size)[:most]
    return [
        entrant.runner.decode(workload, prompts, number, repeat)
        for number, prompts in enumerate(batches)
    ]


def make_record(
    command: str,
    environment: Any,
    entrants: Sequence[Entrant],
    workload: Workload,
    times: Times,
) -> dict[str, Any]:
    rows = []
    for entrant in entrants:
        plain, single = times[PLAIN, entrant.size], times[PLAIN, 1]
        own = times[entrant.key]
        samples = [sample for repeat in own for sample in repeat]
        others = [sample for repeat in plain for sample in repeat]
        found = batch_result(entrant.runner, workload, [*samples, *others])
        rows.append(
            {
                "method": entrant.runner.name,
                "batch_size": entrant.size,
                "tokens_per_second": sum(s.tokens for s in own[0]) / median(map(seconds, own)),
                "speedup": ratio(own, plain).to_json(),
                "over_plain_alone": ratio(own, single).to_json(),
                "acceptance_rate": found.acceptance_rate,
                "mean_acceptance_length": found.mean_acceptance_length,
                "pauses": found.pauses,
                "lossless": found.lossless and found.lossless.to_json(),
                "verify_seconds_by_rows": dict(found.costs),
                "seconds": [seconds(repeat) for repeat in own],
            }
        )
    return {
        "command": command,
        "environment": environment,
        "prompts": len(workload.prompts),
        "tokens": sum(workload.lengths),
        "repeats": len(next(iter(times.values()))),
        "rows": rows,
    }


def seconds(samples: Sequence[BatchSample]) -> float:
    """Of decoding all prompts once, prefills excluded."""
    return sum(sample.seconds for sample in samples)


def ratio(own: Sequence[list[BatchSample]], other: Sequence[list[BatchSample]]) -> Interval:
    """Seconds of the other ÷ own seconds, paired by repeat; the interval spans the repeats."""
    pairs = zip(own, other, strict=True)
    return ratio_interval([[math.log(seconds(b) / seconds(a)) for a, b in pairs]])


def page(record: dict[str, Any]) -> list[str]:
    lines = page_head("Speculation on batches", record)
    lines += [
        f"- prompts: {record['prompts']}, {record['tokens']} new tokens, "
        f"{record['repeats']} repeats",
        "",
        "Tokens/s are of all texts together, prefills excluded. Speedup: over plain decoding of "
        "the same batch size; over plain alone: over plain decoding one prompt after another. "
        "Medians of repeats, with the range of the repeats.",
        "",
        "| batch | method | tokens/s | speedup | over plain alone | accepted | tokens/round "
        "| pauses | texts |",
        "|--:|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [_row(row) for row in record["rows"]]
    costs: dict[int, float] = {}
    for row in record["rows"]:
        costs |= row["verify_seconds_by_rows"]
    lines += ["", "Milliseconds of a forward of the target, by rows:", ""]
    told = [rows for rows in TOLD_ROWS if rows in costs]
    lines.append("| rows | " + " | ".join(map(str, told)) + " |")
    lines.append("|---" + "|--:" * len(told) + "|")
    lines.append("| ms | " + " | ".join(f"{1e3 * costs[rows]:.1f}" for rows in told) + " |")
    return lines


def _row(row: dict[str, Any]) -> str:
    accepted = row["acceptance_rate"]
    cells = [
        row["batch_size"],
        row["method"],
        f"{row['tokens_per_second']:.1f}",
        _interval(row["speedup"]),
        _interval(row["over_plain_alone"]),
        "–" if accepted is None else f"{accepted:.0%}",
        f"{row['mean_acceptance_length']:.2f}",
        row["pauses"],
        _identity(row["lossless"]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _interval(found: dict[str, float]) -> str:
    return f"{found['median']:.2f}× ({found['low']:.2f}–{found['high']:.2f})"


def _identity(lossless: dict[str, Any]) -> str:
    report = LosslessReport(*(lossless[key] for key in ("exact", "within_margin", "failed")))
    return f"{report.exact} of {report.total} identical"


if __name__ == "__main__":
    main()
