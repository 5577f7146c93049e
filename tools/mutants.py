"""Switches fixes off one at a time, and sees whether a test fails.

    python -m tools.mutants [NAMES] [--output results/mutants]

`mutants.yaml` lists the mutants, each named after the fault that comes back. Each is applied by
itself in a temporary copy of the checkout, in which its tests run; without it they must pass.
Without NAMES, all of them run. An interrupted run goes on by the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from benchmarks.result_files import earlier_record, log, page_head, save_results, write_results
from skipopt.environment import environment_record
from skipopt.yaml_values import parse_yaml

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutants.yaml")
NOT_COPIED = (".git", ".venv", ".*_cache", "__pycache__", ".real", "*.journal")
CAUGHT, SURVIVED, NOT_APPLICABLE = "caught", "survived", "does not apply"
FORKS = Path(__file__).with_name("pytest_forks.py")
# What tests need that takes long to import; nothing of skipopt.
IMPORTED = (
    "optuna", "pydantic", "rich.console", "scipy.special", "scipy.stats", "torch", "typer",
    "safetensors.torch", "tokenizers", "transformers.models.auto.modeling_auto",
    "transformers.generation.utils", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)  # fmt: skip
# Libraries read these when they are imported, before the suite could set them.
VARIABLES = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
AT_ONCE = 12  # mutants whose tests run together without them
PASSED, FAILED = 0, 1  # exit statuses of pytest
FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) ([^\s[]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change that brings a fault back.

    Attributes:
        fault: what comes back, in plain words.
        file: relative to the checkout.
        old: text of the file, there exactly once.
        new: what replaces it.
        tests: names of tests as pytest takes them, with spaces between.
    """

    fault: str
    file: str
    old: str
    new: str
    tests: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant.

    Attributes:
        outcome: `CAUGHT`, `SURVIVED` or `NOT_APPLICABLE`.
        note: the test that failed, or why the mutant does not apply.
    """

    outcome: str
    note: str


def read_mutants(file: Path, names: Iterable[str] = ()) -> dict[str, Mutant]:
    """The mutants of a list by name; only those in `names`, if there are any.

    Raises:
        SystemExit: a name that is not in the list.
    """
    values = parse_yaml(file.read_text(encoding="utf-8"))
    found = {name: Mutant(**value) for name, value in values.items()}
    if unknown := [name for name in names if name not in found]:
        raise SystemExit(f"not in {file.name}: {', '.join(unknown)}")
    return {name: found[name] for name in names} or found


@contextmanager
def copied(checkout: Path) -> Iterator[Path]:
    """A temporary copy of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        yield copy


def mutated(text: str, mutant: Mutant) -> str:
    """The text of a file with the change.

    Raises:
        ValueError: the replaced text is not there exactly once.
    """
    count = text.count(mutant.old)
    if count != 1:
        raise ValueError(f"the replaced text is there {count} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


@contextmanager
def applied(mutant: Mutant, copy: Path) -> Iterator[None]:
    """Change a file of the copy, and change it back.

    Raises:
        ValueError: as `mutated`.
    """
    file = copy / mutant.file
    text = file.read_text(encoding="utf-8")
    changed = mutated(text, mutant)
    try:
        _write(file, changed)
        yield
    finally:
        _write(file, text)


def _write(file: Path, text: str) -> None:
    """Write Python's source, and remove what was compiled of another text in the same second."""
    file.write_text(text, encoding="utf-8")
    Path(cache_from_source(str(file))).unlink(missing_ok=True)


class Pytest:
    """Runs pytest in a copy of the checkout; a context manager.

    Attributes:
        output: of the last run.
    """

    def __init__(self, copy: Path) -> None:
        variables = {**os.environ, "PYTHONPATH": str(copy), **VARIABLES}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        self.output = ""
        self._file = copy.with_name("output")
        self._process = subprocess.Popen(
            [sys.executable, str(FORKS), *IMPORTED], cwd=copy, env=variables, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Pytest:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()

    def __call__(self, tests: Iterable[str]) -> int:
        """The exit status; negative where a signal ended it."""
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None
        assert answers is not None
        questions.write(json.dumps([str(self._file), *tests]) + "\n")
        questions.flush()
        status = int(answers.readline())
        self.output = self._file.read_text(errors="replace")
        return status


class Tester:
    """Runs mutants in one copy."""

    def __init__(self, copy: Path, pytest: Pytest) -> None:
        self._copy = copy
        self._pytest = pytest
        self._passes: dict[str, bool] = {}  # without any mutant, by selection

    def try_without(self, mutants: Iterable[Mutant]) -> None:
        """See which of the mutants' tests pass without any: first all together."""
        new = list(dict.fromkeys(each.tests for each in mutants if each.tests not in self._passes))
        together = list(dict.fromkeys(test for tests in new for test in tests.split()))
        all_pass = bool(new) and self._pytest(together) == PASSED
        for tests in new:
            self._passes[tests] = all_pass or self._pytest(tests.split()) == PASSED

    def __call__(self, mutant: Mutant) -> Result:
        """Apply a mutant of which `try_without` was called, and run its tests."""
        if not self._passes[mutant.tests]:
            return Result(NOT_APPLICABLE, "its tests fail without it")
        try:
            with applied(mutant, self._copy):
                status = self._pytest(mutant.tests.split())
        except (OSError, ValueError) as error:
            return Result(NOT_APPLICABLE, str(error).replace(str(self._copy), "."))
        if status == PASSED:
            return Result(SURVIVED, "")
        if status < 0:
            return Result(CAUGHT, signal.Signals(-status).name)
        if "KeyboardInterrupt" in self._pytest.output:
            return Result(CAUGHT, "KeyboardInterrupt")
        test = FAILED_TEST.search(self._pytest.output)
        if status != FAILED or test is None:
            return Result(NOT_APPLICABLE, f"pytest ends with {status}")
        return Result(CAUGHT, test[1])


def page(record: Mapping[str, Any]) -> list[str]:
    """The Markdown page of a record."""
    rows = record["mutants"]
    counts = Counter(row["outcome"] for row in rows.values())
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return [
        *page_head("Fixes switched off", record),
        "",
        f"{len(rows)} mutants: {told}. Each is the change of one file that brings a fault back,",
        "and is caught where a test fails that passes without it.",
        "",
        "| fault | file | outcome | test |",
        "|---|---|---|---|",
        *map(_line, rows.values()),
    ]


def _line(row: Mapping[str, str]) -> str:
    cells = (row["fault"], f"`{row['file']}`", row["outcome"], row["note"] and f"`{row['note']}`")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def is_kept(mutant: Mutant, row: Mapping[str, str] | None) -> bool:
    """Whether a row of an earlier record is of this mutant, and it was caught."""
    if row is None or row["outcome"] != CAUGHT:
        return False
    return asdict(mutant).items() <= row.items()


def run(
    prefix: Path, mutants: Mapping[str, Mutant], checkout: Path, command: str
) -> dict[str, Any]:
    """The record of all mutants, also kept in files after each."""
    record = earlier_record(prefix, command) or {
        "command": command,
        "environment": environment_record("cpu", "float32", "none", threads=1),
    }
    rows = record.get("mutants", {})
    rows = {name: rows[name] for name, each in mutants.items() if is_kept(each, rows.get(name))}
    record["mutants"] = rows
    left = [name for name in mutants if name not in rows]
    with copied(checkout) as copy, Pytest(copy) as pytest:
        test = Tester(copy, pytest)
        for start in range(0, len(left), AT_ONCE):
            some = left[start : start + AT_ONCE]
            test.try_without(mutants[name] for name in some)
            for name in some:
                result = test(mutants[name])
                log(f"{name}: {result.outcome} {result.note}")
                rows[name] = {**asdict(mutants[name]), **asdict(result)}
                record["mutants"] = {each: rows[each] for each in mutants if each in rows}
                save_results(prefix, record, page(record))
    return record


def main() -> None:
    """Try the mutants, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAMES", help="all by default")
    parser.add_argument("--output", type=Path, default=Path("mutants"))
    options = parser.parse_args()
    command = f"python -m tools.mutants {shlex.join(sys.argv[1:])}".rstrip()
    record = run(options.output, read_mutants(LIST, options.names), ROOT, command)
    write_results(options.output, record, page(record))
    outcomes: Sequence[str] = [row["outcome"] for row in record["mutants"].values()]
    sys.exit(any(outcome != CAUGHT for outcome in outcomes))


if __name__ == "__main__":
    main()
