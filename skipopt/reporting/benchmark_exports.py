"""The figures of a `check` in the files that chart services read.

github-action-benchmark: `tool: customBiggerIsBetter`. Bencher: its metric format (BMF),
`bencher run --adapter json --file FILE`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from skipopt.reporting.check_figures import NamedFigure, check_figures

if TYPE_CHECKING:
    from skipopt.measurement.regression_gate import CheckResult


def github_benchmark(result: CheckResult) -> str:
    """A list of benchmarks, each with name, unit, value and range."""
    title = _title(result)
    rows = [_github_row(title, each, result) for each in check_figures(result)]
    return f"{json.dumps(rows, ensure_ascii=False, indent=2)}\n"


def _github_row(title: str, figure: NamedFigure, result: CheckResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": f"{title}: {figure.name}",
        "unit": figure.unit,
        "value": figure.value,
    }
    if figure.low is not None:
        row["range"] = f"{figure.low:.3f}–{figure.high:.3f}"
    return {**row, "extra": f"{result.verdict}: {result.reason}"}


def bencher_metrics(result: CheckResult) -> str:
    """One benchmark, and for each of its measures value, lower value and upper value."""
    measures = {_slug(each.name): _bencher_row(each) for each in check_figures(result)}
    return f"{json.dumps({_title(result): measures}, ensure_ascii=False, indent=2)}\n"


def _bencher_row(figure: NamedFigure) -> dict[str, float]:
    row = {"value": figure.value}
    if figure.low is not None and figure.high is not None:
        row |= {"lower_value": figure.low, "upper_value": figure.high}
    return row


def _slug(name: str) -> str:
    """`decoding, layer-skip` → `decoding-layer-skip`, as Bencher writes names of measures."""
    letters = (letter if letter.isalnum() else " " for letter in name.lower())
    return "-".join("".join(letters).split())


def _title(result: CheckResult) -> str:
    """The same for the same model, whatever folder it is in."""
    name = str(result.subject.model["id"]).replace("\\", "/").rstrip("/").rpartition("/")[2]
    return f"skipopt check {name}"
