"""Whether searches end at their `--timeout`, and what they find in it.

    python -m benchmarks.search_time builtin MODEL … --budgets 20,60,120

The searches run one after another on the loaded target. A budget that is too short for any answer
is refused: then the table has the least time that the error names.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import skipopt
from benchmarks.result_files import environment_lines, write_results
from skipopt.bench.provenance import environment_of
from skipopt.errors import SearchError
from skipopt.models.target import Target
from skipopt.profile import Profile


@dataclass(frozen=True, slots=True)
class Search:
    """One search: its time, and what it chose; `error` where it was refused."""

    model: str
    budget: float
    seconds: float
    trials: int = 0
    chosen: str = ""
    predicted: float | None = None
    measured: float | None = None
    low: float | None = None
    error: str = ""

    @property
    def overrun(self) -> float:
        """Relative to the budget; negative where the search ended early."""
        return self.seconds / self.budget - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--budgets", default="20,60,120")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/search-time"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    budgets = [float(each) for each in given.budgets.split(",")]
    found: list[Search] = []
    for model in given.models:
        target = skipopt.load(model)
        found += [search(target, Path(model).name, budget) for budget in budgets]
    names = " ".join(Path(model).name for model in given.models)
    command = f"python -m benchmarks.search_time {names} --budgets {given.budgets}"
    lines = ["# The time of searches", "", f"`{command}`", ""]
    lines += environment_lines(environment_of(target))
    record = {"command": command, "searches": [asdict(each) for each in found]}
    write_results(given.output, record, [*lines, *table(found)])


def search(target: Target, name: str, budget: float) -> Search:
    """Search with the default options, and time it."""
    began = time.perf_counter()
    try:
        profile = skipopt.search(target, timeout=budget, on_note=print)
    except SearchError as refused:
        return Search(name, budget, time.perf_counter() - began, error=str(refused))
    seconds = time.perf_counter() - began
    measured = profile.measured.speedup if profile.measured else None
    return Search(
        name,
        budget,
        seconds,
        profile.search.trials if profile.search else 0,
        chosen(profile),
        profile.predicted.speedup if profile.predicted else None,
        measured.median if measured else None,
        measured.low if measured else None,
    )


def chosen(profile: Profile) -> str:
    """Method, number of skipped sublayers and draft configuration; `off` where nothing pays."""
    if not profile.enabled:
        return "off"
    skipped = len(profile.skip_mask.skipped) if profile.mask is not None else 0
    parts = [
        profile.drafting.method,
        f"{skipped} skipped" if skipped else "",
        str(profile.draft_config),
    ]
    return ", ".join(part for part in parts if part and part != "none")


def table(searches: Sequence[Search]) -> list[str]:
    """One row per search."""
    rows = [
        "",
        "| model | budget, s | took, s | overrun | trials | chosen | predicted | measured | low |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in searches:
        ways = [_digits(value) for value in (each.predicted, each.measured, each.low)]
        rows.append(
            f"| {each.model} | {each.budget:g} | {each.seconds:.1f} | {each.overrun:+.1%} | "
            f"{each.trials} | {each.error or each.chosen} | {' | '.join(ways)} |"
        )
    return rows


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
