"""The result of a `check` where GitHub Actions shows it: job summary, outputs and annotations.

A step writes to the files named by `GITHUB_STEP_SUMMARY` and `GITHUB_OUTPUT`, and prints
`::error …` lines, which GitHub reads from stdout and stderr alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skipopt.files import append_atomically

if TYPE_CHECKING:
    from skipopt.measurement.regression_gate import CheckResult

Level = Literal["error", "warning", "notice"]

TITLES = {"pass": "passed", "fail": "failed", "inconclusive": "is inconclusive"}


def is_github(environment: Mapping[str, str]) -> bool:
    """Whether the process is a step of GitHub Actions."""
    return environment.get("GITHUB_ACTIONS") == "true"


def write_step_files(
    environment: Mapping[str, str], result: CheckResult, profile: str, table: str
) -> None:
    """Append the table to the job's summary, and the figures to the step's outputs.

    Args:
        environment: variables of the process; a file that none names is not written.
        table: the result in Markdown.

    Raises:
        OutputError: a file cannot be written.
    """
    if summary := environment.get("GITHUB_STEP_SUMMARY"):
        text = f"### skipopt check {TITLES[result.verdict]}: {profile}\n\n{table}\n"
        append_atomically(Path(summary), text)
    if outputs := environment.get("GITHUB_OUTPUT"):
        lines = (f"{name}={value}\n" for name, value in step_outputs(result).items())
        append_atomically(Path(outputs), "".join(lines))


def step_outputs(result: CheckResult) -> dict[str, str]:
    """Outputs of the step, each one line; empty where nothing was measured."""
    whole = result.end_to_end.whole if result.end_to_end else None
    values: dict[str, str | float | None] = {
        "verdict": result.verdict,
        "reason": result.reason,
        "speedup": whole.median if whole else None,
        "speedup-low": whole.low if whole else None,
        "speedup-high": whole.high if whole else None,
        "decoding-speedup": result.speedup.median if result.speedup else None,
        "acceptance-rate": result.acceptance_rate,
        "lossless": result.lossless.verdict if result.lossless else None,
    }
    return {name: _one_line(value) for name, value in values.items()}


def _one_line(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else " ".join(value.split())


def annotation(level: Level, title: str, message: str) -> str:
    """The line that makes GitHub show a message with the run."""
    return f"::{level} title={_escaped(title, ':,')}::{_escaped(message)}"


def check_annotation(result: CheckResult, profile: str, on_inconclusive: str) -> str:
    """One line: an error where the command ends with a failure, else a warning or a notice."""
    level: Level = "error" if result.verdict == "fail" else "notice"
    if result.verdict == "inconclusive":
        levels: dict[str, Level] = {"fail": "error", "warn": "warning", "pass": "notice"}
        level = levels[on_inconclusive]
    title = f"skipopt check {TITLES[result.verdict]}"
    return annotation(level, title, f"{profile}: {result.reason}")


def _escaped(text: str, others: str = "") -> str:
    """Percent signs, ends of lines, and these characters, as GitHub's runner reads them."""
    for letter in ("%", "\r", "\n", *others):
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text
