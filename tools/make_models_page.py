"""Try every causal-LM type of transformers, tiny and random, and write `docs/models.md`.

    python -m tools.make_models_page            # all types, on a new page
    python -m tools.make_models_page --missing  # those that the page lacks, as after an interrupt
    python -m tools.make_models_page llama bert # these types, on the page that is there

What was found is printed, and written at once. Each type has a process of its own and a time
limit, so that neither a crash nor a hang ends the others.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from skipopt.testing.architectures import CHECKS, Check
from skipopt.testing.model_report import ModelReport, report
from tools.state_memory import section
from tools.tiny_models import causal_types, tiny_model

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
CPU_SECONDS = 300  # for one type; longer is a loop without end
SECONDS = 3600.0  # longer is a deadlock
MODULES = ("skipopt.testing.model_report", "transformers.models.llama.modeling_llama")
COLUMNS = ("type", "outcome", "attention", "MLP", "trees", "search", "steps", "reason")
HEAD = """# Models

Every causal-LM type that transformers {version} registers, built tiny and random from its own
config class and decoded in every way that skipopt has: greedy and sampled, drafts under masks,
quantized drafts, copies, trees, captured steps, a short search, saving and loading. A type works
if each gives the text of `generate`. `make models` tries all types again and writes this page.
Types that are encoders by default are built with `is_decoder=True` where their config has it;
without it they are refused. `gemma3n` is built where timm is installed.

`attention` and `MLP` say in how many of the tiny model's layers that sublayer can be skipped;
`trees` whether drafts may be trees, `search` whether masks can be searched (where not, a search
tries drafts without a mask, and copies); `steps` what runs its steps on a CPU.

"""


@dataclass(frozen=True)
class Row:
    """One type of the page, as text."""

    type: str
    outcome: str
    attention: str = ""
    mlp: str = ""
    trees: str = ""
    search: str = ""
    steps: str = ""
    reason: str = ""

    @classmethod
    def of(cls, model_type: str, found: ModelReport) -> Row:
        """The row of a type that was tried."""
        if found.outcome != "works":
            return cls(model_type, found.outcome, reason=found.reason.replace("|", "/"))
        return cls(
            model_type,
            found.outcome,
            f"{found.attention} of {found.layers}",
            f"{found.mlp} of {found.layers}",
            "yes" if found.trees else "no",
            "yes" if found.search else "no",
            found.steps,
            found.reason.replace("|", "/"),
        )

    def is_worse_than(self, before: Row) -> bool:
        """Whether the type worked, and does so no more or with less."""
        if before.outcome != "works":
            return False
        return (
            self.outcome != "works"
            or _number(self.attention) < _number(before.attention)
            or _number(self.mlp) < _number(before.mlp)
            or (before.trees == "yes" and self.trees == "no")
            or (before.search == "yes" and self.search == "no")
        )


def _number(text: str) -> int:
    return int(text.partition(" ")[0])


def read_page(path: Path = PAGE) -> dict[str, Row]:
    """The rows of the page, by type."""
    lines = path.read_text(encoding="utf-8").splitlines()
    tables = [line.strip("| ").split("|") for line in lines if line.startswith("| `")]
    rows = [Row(*(cell.strip().strip("`") for cell in cells)) for cells in tables]
    return {row.type: row for row in rows}


def page(rows: Sequence[Row], version: str) -> str:
    """The page."""
    counts = Counter(row.outcome for row in rows)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| `{row.type}` | {' | '.join(list(asdict(row).values())[1:])} |" for row in rows),
    ]
    table = "\n".join(" ".join(line.split()) for line in lines)
    head = f"{HEAD.format(version=version)}Of {len(rows)} types: {summary}."
    return f"{head}\n\n{table}\n\n{section()}"


def try_type(model_type: str, checks: Sequence[Check] = CHECKS) -> Row:
    """What the type does, tried in this process."""
    try:
        model = tiny_model(model_type)
    except Exception as error:  # whatever a config or a model raises
        reason = " ".join(str(error).split())[:160]
        return Row(model_type, "not built", reason=f"{type(error).__name__}: {reason}")
    return Row.of(model_type, report(model, checks))


def try_apart(model_type: str, seconds: float = SECONDS) -> Row:
    """The same in a process of its own."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(MODULES))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(model_type, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return Row(model_type, "error", reason=f"not done after {seconds:g} seconds")
        found: Row = receiver.recv()
        return found
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return Row(model_type, "error", reason=f"not done after {CPU_SECONDS} seconds of CPU")
        return Row(model_type, "error", reason=f"the process died, exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _send(model_type: str, sender: Connection) -> None:
    import torch
    import transformers

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    sender.send(try_type(model_type))


def types_to_try(arguments: Sequence[str], known: Container[str]) -> list[str]:
    """Those that the command line asks for.

    Args:
        known: the types that the page has.
    """
    parser = ArgumentParser(description="Try causal-LM types, and write docs/models.md.")
    parser.add_argument("types", nargs="*", help="all by default, on a new page")
    parser.add_argument("--missing", action="store_true", help="those that the page lacks")
    options = parser.parse_args(arguments)
    every = causal_types()
    if unknown := set(options.types) - set(every):
        parser.error(f"transformers has no causal-LM type {min(unknown)}")
    return [each for each in options.types or every if not (options.missing and each in known)]


def main(arguments: Sequence[str]) -> None:
    """Try the types, and write each on the page when it was tried."""
    import transformers

    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows = read_page()
    types = types_to_try(arguments, rows)
    if not arguments:
        rows = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in as_completed([pool.submit(try_apart, each) for each in types]):
            row = done.result()
            print(*asdict(row).values(), sep="\t", flush=True)
            rows[row.type] = row
            in_order = [rows[each] for each in sorted(rows)]
            PAGE.write_text(page(in_order, transformers.__version__), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
