"""Figures of a bench result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from skipopt.reporting.forest import Kind, Speedup, cut, draw_forest, fill
from skipopt.reporting.plot_style import FILLS, is_narrow, legend_place
from skipopt.reporting.report import Picture
from skipopt.reporting.scatter import MARKERS, Operating, draw_front

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from skipopt.measurement.methods_table import BenchResult, MethodResult

PEER = "hf-"  # begins the names of methods of transformers
LONGEST_NOTE = 88
MOST_POSITIONS = 16


def bench_figures(result: BenchResult, labels: Sequence[str], title: str) -> tuple[Picture, ...]:
    """The figures that the result has values for; `labels` name its methods."""
    return tuple(
        each
        for each in (
            _speedup_figure(result, labels, title),
            _category_figure(result),
            _front_figure(result),
            position_figure({m.name: m.acceptance_by_position for m in result.methods}),
            time_figure({m.name: m.seconds_by_phase for m in result.methods}),
        )
        if each is not None
    )


def _speedup_figure(result: BenchResult, labels: Sequence[str], title: str) -> Picture:
    pairs = list(zip(labels, result.methods, strict=True))
    rows = [Speedup.of(label, m.speedup, _kind(m)) for label, m in pairs if m.speedup is not None]
    rows.sort(key=lambda row: -row.median)
    notes = [
        cut(f"no row: {label}: {each.error or 'no figure'}", LONGEST_NOTE)
        for label, each in pairs
        if each.speedup is None
    ]
    if any(each.name.startswith(PEER) for each in result.methods):
        notes.insert(0, "gray: plain decoding, and transformers (hf-…)")
    alt_text = "; ".join(f"{row.name} {row.words}" for row in rows) or "; ".join(notes)
    return Picture("speedup", alt_text, lambda width: draw_forest(rows, width, title, notes))


def _kind(method: MethodResult) -> Kind:
    if differs(method):
        return "differs"
    return "reference" if method.name == "plain" or method.name.startswith(PEER) else "method"


def differs(method: MethodResult) -> bool:
    """Whether the text may differ, by the method's guarantee, or did differ."""
    failed = method.lossless is not None and method.lossless.verdict == "failed"
    return failed or method.guarantee == "none"


def _category_figure(result: BenchResult) -> Picture | None:
    timed = [m for m in result.methods if m.speedup_by_category and m.name != "plain"]
    if not timed:
        return None
    rows = [
        Speedup.of(
            f"{name} · {method.name}", dict(method.speedup_by_category)[name], _kind(method)
        )
        for name in result.workload.by_category
        for method in timed
        if name in dict(method.speedup_by_category)
    ]
    alt_text = "; ".join(f"{row.name} {row.words}" for row in rows)
    title = f"Speedup by category: {result.model['id']}"
    return Picture("category", alt_text, lambda width: draw_forest(rows, width, title))


def _front_figure(result: BenchResult) -> Picture | None:
    points = [
        Operating(m.mean_acceptance_length / m.speedup.median, m.mean_acceptance_length, m.name)
        for m in result.methods
        if m.speedup is not None and m.mean_acceptance_length is not None
    ]
    if len(points) < 2:
        return None
    alt_text = "; ".join(
        f"{p.name}: {p.tokens:.2f} tokens per round of {p.cost:.2f} plain steps" for p in points
    )
    title = f"Tokens per round against its cost: {result.model['id']}"
    return Picture("pareto", alt_text, lambda width: draw_front(points, width, title))


def position_figure(rows: Mapping[str, Sequence[float]]) -> Picture | None:
    """Accepted by position in the draft, a line for each name that has values."""
    shown = {name: values[:MOST_POSITIONS] for name, values in rows.items() if values}
    if not shown:
        return None
    alt_text = "; ".join(
        f"{name}: {', '.join(f'{value:.0%}' for value in values)}"
        for name, values in shown.items()
    )
    return Picture("position", alt_text, partial(_draw_positions, shown))


def _draw_positions(rows: Mapping[str, Sequence[float]], width: float) -> Figure:
    from matplotlib.figure import Figure

    narrow = is_narrow(width)
    names = 0.21 * len(rows)
    height = 3.6 + names if narrow else max(4.0, 0.8 + names)
    figure = Figure((width, height), layout="constrained")
    figure.suptitle(fill("Drafts accepted by position", width), x=0.01, ha="left")
    axes = figure.subplots()
    longest = max(len(values) for values in rows.values())
    for number, (name, values) in enumerate(rows.items()):
        color, marker = FILLS[number % len(FILLS)], MARKERS[number % len(MARKERS)]
        words = f"{cut(name, 34)}: first {values[0]:.0%}"
        positions = range(1, len(values) + 1)
        axes.plot(positions, values, marker=marker, ms=6, lw=1.6, color=color, label=words)
        if len(rows) == 1:
            for position, value in zip(positions, values, strict=True):
                at = (position, value)
                axes.annotate(f"{value:.0%}", at, (0, 7), textcoords="offset points", ha="center")
    axes.set_ylim(0, 1.08)
    axes.set_xlim(0.5, longest + 0.5)
    axes.set_xticks(range(1, longest + 1))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("position in the draft")
    axes.set_ylabel("share of drafts accepted up to here")
    figure.legend(loc=legend_place(width), frameon=False, fontsize=9)
    return figure


def time_figure(rows: Mapping[str, Mapping[str, float]]) -> Picture | None:
    """Milliseconds per new token by phase, a bar for each name that has values."""
    from skipopt.reporting.bars import draw_stacked

    shown = {
        name: {phase: 1e3 * seconds for phase, seconds in phases.items()}
        for name, phases in rows.items()
        if phases
    }
    if not shown:
        return None
    alt_text = "; ".join(
        f"{name}: {', '.join(f'{phase} {value:.1f} ms' for phase, value in phases.items())}"
        for name, phases in shown.items()
    )
    title, unit = "Time of a new token by phase", "milliseconds per new token"
    return Picture(
        "time", alt_text, lambda width: draw_stacked(shown, width, title, unit, "{:.1f}")
    )
