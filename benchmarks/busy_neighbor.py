"""What decoding takes while other processes use the cores, by how long torch's threads spin.

    python -m benchmarks.busy_neighbor MODEL --threads 2 --output results/busy-neighbor

Each measurement is a process of its own; the settings take turns. A neighbor is an endless loop.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.result_files import page_head, write_results
from skipopt.__main__ import SPINS

PROMPT = "Describe a walk through a forest after the rain."
TEXTS, TOKENS = 10, 24
METHOD = "layer-skip:gamma=4:quant=int8"
KINDS = ("first text", "prefill", "plain step", "token with drafts")


@dataclass(frozen=True, slots=True)
class Setting:
    """One way of waiting beside some neighbors.

    Attributes:
        spins: `GOMP_SPINCOUNT`; None for the default.
        neighbors: other busy processes.
    """

    spins: str | None
    neighbors: int

    def __str__(self) -> str:
        return f"{self.spins or 'default'} | {self.neighbors}"


SETTINGS = tuple(Setting(spins, count) for count in (0, 1, 2) for spins in (None, SPINS))


def child(model: str, threads: int) -> None:
    """Print seconds of each kind, for each text, and the environment."""
    import torch

    from skipopt.decoding.api import resolve_method
    from skipopt.detokenizer import encode_prompt
    from skipopt.measurement.provenance import environment_of
    from skipopt.measurement.runners import SkipoptRunner
    from skipopt.measurement.timing import Decoding, device_clock
    from skipopt.runtime.load import load

    torch.set_num_threads(threads)
    target = load(model, device="cpu")
    chat = getattr(target.tokenizer, "chat_template", None) is not None
    ids = encode_prompt(target.tokenizer, PROMPT, chat=chat)
    clock = device_clock(target.device)
    plain, drafted = (
        SkipoptRunner(target, resolve_method(None, method)) for method in ("plain", METHOD)
    )
    first = plain.decode_fresh(ids, TOKENS, clock)
    with target.runtime.capture_immediately():
        drafted.decode(ids, TOKENS, clock)
        later: list[list[Decoding]] = [
            [runner.decode(ids, TOKENS, clock) for _ in range(TEXTS)]
            for runner in (plain, drafted)
        ]
    found = {
        "first text": [first.total_seconds],
        "prefill": [each.prefill_seconds for each in later[0]],
        "plain step": [each.seconds_per_token for each in later[0]],
        "token with drafts": [each.seconds_per_token for each in later[1]],
    }
    print(json.dumps({"seconds": found, "environment": environment_of(target)}))


@contextmanager
def neighbors(count: int) -> Iterator[None]:
    """Inside, so many other processes run an endless loop."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(given: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """What a fresh process measured."""
    variables = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if setting.spins is not None:
        variables["GOMP_SPINCOUNT"] = setting.spins
    command = [sys.executable, "-m", "benchmarks.busy_neighbor", given.model, "--child"]
    with neighbors(setting.neighbors):
        ended = subprocess.run(
            [*command, "--threads", str(given.threads)],
            env=variables,
            check=True,
            capture_output=True,
            text=True,
        )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head("Beside busy processes", record)
    yield ""
    yield f"| spins | busy processes | {' | '.join(f'{kind}, ms' for kind in KINDS)} |"
    yield f"|---|--:|{'--:|' * len(KINDS)}"
    for setting, runs in record["runs"].items():
        cells = (cell([1000 * x for each in runs for x in each[kind]]) for kind in KINDS)
        yield f"| {setting} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"Medians over {record['repeats']} processes with {TEXTS} texts each, with the smallest "
        f"and the largest. A process has one first text, of {TOKENS} tokens, which records its "
        f"step. Drafts are `{METHOD}`."
    )


def cell(values: Sequence[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("busy-neighbor"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.model, given.threads)
        return
    runs: dict[str, list[dict[str, list[float]]]] = {str(each): [] for each in SETTINGS}
    environment: dict[str, Any] = {}
    for repeat in range(given.repeats):
        for setting in SETTINGS[:: -1 if repeat % 2 else 1]:
            found = run(given, setting)
            runs[str(setting)].append(found["seconds"])
            environment = found["environment"]
    command = f"python -m benchmarks.busy_neighbor {Path(given.model).name}"
    command += f" --threads {given.threads} --repeats {given.repeats}"
    record = {
        "command": command,
        "environment": environment,
        "repeats": given.repeats,
        "runs": runs,
    }
    write_results(given.output, record, list(report(record)))


if __name__ == "__main__":
    main()
