"""A history of checks as a table, and as a figure of the speedup over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skipopt.reporting.check_history import History, PastCheck, names_of
from skipopt.reporting.plot_style import BLUE, INK, LINE, MUTED, ORANGE
from skipopt.reporting.report import Picture, Report, TableData
from skipopt.reporting.terminal_table import TerminalTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("time", "verdict", "end to end", "low", "high", "floor", "commit", "profile")
COMMIT_DIGITS = 9
HEIGHT = 2.6  # inches of one series
COLORS = {"pass": BLUE, "inconclusive": MUTED, "fail": ORANGE}
TITLE = "Checks over time"


def history_table(history: History) -> TerminalTable:
    """One row for each check, oldest first."""
    return TerminalTable(_data(history), TITLE)


def history_report(history: History) -> Report:
    """The table, with a figure of each profile's speedup over time."""
    alt_text = "end-to-end speedup of each check, with its 95 % interval and the floor"
    picture = Picture("history", alt_text, lambda width: draw_history(history, width))
    return Report(TITLE, (picture,), _data(history))


def history_document(history: History) -> dict[str, Any]:
    """The same as JSON."""
    rows = [
        {
            "time": each.time,
            "verdict": each.verdict,
            "reason": each.reason,
            "model": each.model,
            "profile": each.profile,
            "floor": each.floor,
            "speedup": each.speedup and each.speedup.to_json(),
            "commit": each.commit,
        }
        for each in history.checks
    ]
    return {"checks": rows, "damaged_lines": history.damaged}


def _data(history: History) -> TableData:
    rows = tuple(map(_row, history.checks))
    return TableData(COLUMNS, rows, frozenset((0, 1, 6, 7)))


def _row(check: PastCheck) -> tuple[str, ...]:
    found = check.speedup
    numbers = (found.median, found.low, found.high) if found else ()
    cells = tuple(f"{each:.2f}×" for each in numbers) or ("–",) * 3
    commit = (check.commit or "–")[:COMMIT_DIGITS]
    return (check.time, check.verdict, *cells, f"{check.floor:.2f}×", commit, check.profile)


def draw_history(history: History, width: float) -> Figure:
    """Axes for each model and profile: speedup by number of the check."""
    from matplotlib.figure import Figure

    series = names_of(history.checks)
    figure = Figure((width, HEIGHT * len(series)), layout="constrained")
    axes = figure.subplots(len(series), squeeze=False)[:, 0]
    for (model, profile), each, checks in zip(series, axes, series.values(), strict=True):
        each.set_title(f"{profile} of {model}")
        _draw_series(each, checks)
    return figure


def _draw_series(axes: Axes, checks: list[PastCheck]) -> None:
    for number, check in enumerate(checks):
        if (found := check.speedup) is not None:
            color = COLORS.get(check.verdict, MUTED)
            axes.plot([number, number], [found.low, found.high], color=color, linewidth=2)
            axes.plot([number], [found.median], "o", color=color, gid=f"check-{number}")
    axes.step(
        range(len(checks)), [each.floor for each in checks], where="mid", color=INK, linewidth=0.8
    )
    axes.axhline(1.0, color=LINE, linestyle="--", linewidth=1)
    days = [each.time.partition("T")[0] for each in checks]
    step = max(1, len(days) // 8)
    axes.set_xticks(range(0, len(days), step), days[::step])
    axes.set_ylabel("end to end, ×")
    axes.set_xlabel(
        "blue: passed; gray: inconclusive; orange: failed; line: the floor", loc="left"
    )
