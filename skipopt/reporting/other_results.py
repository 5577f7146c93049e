"""What `check --json` and `run --json` wrote, as lines and as reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.reporting.cells import DASH
from skipopt.reporting.forest import Speedup, draw_forest
from skipopt.reporting.lines import LabeledLines, labeled
from skipopt.reporting.report import Picture, Report, TableData
from skipopt.reporting.tables import check_lines

if TYPE_CHECKING:
    from skipopt.measurement.regression_gate import CheckResult
    from skipopt.reporting.load_results import RunResult


def check_report(result: CheckResult) -> Report:
    """The lines of the terminal, and the speedups with the floor."""
    rows = (("verdict", result.verdict), *check_lines(result))
    pictures = _check_figure(result)
    title = f"Check of {result.subject.model['id']}: {result.verdict}"
    return Report(title, pictures, TableData((), rows, frozenset((0, 1))))


def _check_figure(result: CheckResult) -> tuple[Picture, ...]:
    total, first = result.end_to_end, result.first_text
    rows = [] if total is None else [Speedup.of("end to end", total.whole)]
    rows += [] if result.speedup is None else [Speedup.of("decoding alone", result.speedup)]
    rows += [] if first is None else [Speedup.of("first text", first.whole)]
    if total is not None:
        at = total.at
        rows += [Speedup.of(f"up to {n} new tokens", each, "reference") for n, each in at]
    if not rows:
        return ()
    floor = result.threshold.value
    title = f"Check of {result.subject.model['id']}: {result.verdict}"
    notes = [f"dotted: the floor, {floor:.2f}×, which end to end must keep"]
    alt_text = "; ".join(f"{row.name} {row.words}" for row in rows)
    marks = [] if floor == 1 else [(floor, "floor")]
    return (
        Picture(
            "speedup",
            alt_text,
            lambda width: draw_forest(rows, width, title, notes if marks else (), marks),
        ),
    )


def run_lines(result: RunResult) -> LabeledLines:
    """The statistics of one text."""
    return labeled(_run_lines(result))


def run_report(result: RunResult) -> Report:
    """The same with figures: accepted by position, and time by phase."""
    from skipopt.reporting.bench_figures import position_figure, time_figure

    tokens = max(1, result.new_tokens)
    phases = {
        "prefill": result.prefill_seconds / tokens,
        "decode": result.seconds / tokens,
    }
    pictures = (
        position_figure({result.method: result.acceptance_by_position}),
        time_figure({result.method: phases}),
    )
    title = f"A text by {result.method}: {result.new_tokens} tokens"
    table = TableData((), tuple(_run_lines(result)), frozenset((0, 1)))
    return Report(title, tuple(each for each in pictures if each is not None), table)


def _run_lines(result: RunResult) -> list[tuple[str, str]]:
    positions = [
        f"{number}: {share:.0%}"
        for number, share in enumerate(result.acceptance_by_position, start=1)
    ]
    lines = [
        ("method", result.method),
        ("text", f"{result.new_tokens} tokens, stopped by {result.stop_reason}"),
        ("speed", f"{result.tokens_per_second:.1f} tokens/s"),
        ("time", f"prefill {result.prefill_seconds:.2f} s, decoding {result.seconds:.2f} s"),
        ("acceptance rate", _share(result.acceptance_rate)),
        ("by position", ", ".join(positions) or DASH),
        ("accept. length", f"{result.mean_acceptance_length:.2f}"),
    ]
    if result.compared is not None:
        found = result.compared
        pairs = f"{found.median:.2f}× (pairs {found.low:.2f}×, {found.high:.2f}×)"
        lines.append(("decoding", f"{pairs}, speedup over plain decoding of this text"))
    if result.end_to_end is not None:
        lines.append(("end to end", f"{result.end_to_end:.2f}×"))
    return lines


def _share(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"
