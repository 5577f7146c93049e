"""A forest plot: a median and its interval per row, and a line at 1×, plain decoding."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from skipopt.reporting.intervals import AnyInterval, called_undecided, whole_interval
from skipopt.reporting.plot_style import BLUE, INK, MUTED, ORANGE, PAPER, is_narrow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTERS_PER_INCH = 10.5  # of a title, in a line
LONGEST_NAME = 44  # characters of a row's name
NARROW_LINE = 58  # characters of a name and its figures above a row
ROW_HEIGHT = 0.3  # inches
TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
LOGARITHMIC_FROM = 3.0  # ratio of the ends of the axis

Kind = Literal["method", "reference", "predicted", "differs"]
COLORS: dict[Kind, str] = {
    "method": BLUE, "reference": MUTED, "predicted": INK, "differs": ORANGE,
}  # fmt: skip
LEGEND: dict[Kind, str] = {
    "predicted": "hollow: predicted",
    "differs": "crosses: the text differs from the model's",
}


class Speedup(NamedTuple):
    """A row; without an interval where it is a prediction."""

    name: str
    median: float
    interval: tuple[float, float] | None = None
    kind: Kind = "method"

    @classmethod
    def of(cls, name: str, found: AnyInterval, kind: Kind = "method") -> Speedup:
        return cls(name, found.median, (found.low, found.high), kind)

    @property
    def words(self) -> str:
        return f"{self.median:.2f}×" if self.interval is None else self._with_interval

    @property
    def _with_interval(self) -> str:
        low, high = self.ends
        words = whole_interval(self.median, low, high)
        return f"{words} ?" if self.is_undecided else words

    @property
    def is_undecided(self) -> bool:
        return self.interval is not None and called_undecided(*self.interval)

    @property
    def ends(self) -> tuple[float, float]:
        return self.interval or (self.median, self.median)


def draw_forest(
    rows: Sequence[Speedup],
    width: float,
    title: str,
    notes: Sequence[str] = (),
    marks: Sequence[tuple[float, str]] = (),
) -> Figure:
    """The rows in their order.

    Args:
        notes: lines below.
        marks: further lines across, each with its name.
    """
    from matplotlib.figure import Figure

    words = [*legend(rows), *notes]
    below = [line for each in words for line in fill(each, width).split("\n")]
    heading = fill(title, width, 3)
    height = 1.0 + forest_height(rows, width) + 0.18 * len(below) + 0.2 * heading.count("\n")
    figure = Figure((width, height), layout="constrained")
    figure.suptitle(heading, x=0.01, ha="left")
    axes = figure.subplots()
    draw_rows(axes, rows, width, marks)
    figure.supxlabel("\n".join(below), x=0.01, ha="left", size=10, color=MUTED)
    return figure


def forest_height(rows: Sequence[Speedup], width: float) -> float:
    """Inches of the rows."""
    return ROW_HEIGHT * (1.6 if is_narrow(width) else 1.0) * max(1, len(rows))


def legend(rows: Sequence[Speedup]) -> list[str]:
    """What the marks of these rows mean."""
    words = ["speedup over plain decoding (dashed: 1×)"]
    if any(row.interval for row in rows):
        words[0] += "; lines: 95 % intervals"
    words += [text for kind, text in LEGEND.items() if any(row.kind == kind for row in rows)]
    if any(row.is_undecided for row in rows):
        words.append("?: undecided, the interval reaches from slower to faster")
    return ["; ".join(words)]


def draw_rows(
    axes: Axes, rows: Sequence[Speedup], width: float, marks: Sequence[tuple[float, str]] = ()
) -> None:
    """All rows on these axes."""
    for number, row in enumerate(rows):
        color = COLORS[row.kind]
        axes.plot(row.ends, [number, number], color=color, lw=2, solid_capstyle="round")
        face = PAPER if row.kind == "predicted" else color
        marker = "X" if row.kind == "differs" else "o"
        axes.plot(row.median, number, marker, ms=7, mec=color, mfc=face)
    _limits(axes, [end for row in rows for end in row.ends], marks)
    axes.axvline(1, color=ORANGE, lw=1.2, ls=(0, (4, 3)), zorder=1)
    for at, name in marks:
        axes.axvline(at, color=MUTED, lw=1, ls=":", zorder=1)
        axes.text(at, -0.75, name, ha="center", va="bottom", size=9, color=MUTED)
    top = 1.0 if is_narrow(width) else 0.6
    axes.set_ylim(max(1, len(rows)) - 0.4, -top)
    if is_narrow(width):
        _names_above(axes, rows)
    else:
        _names_beside(axes, rows)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _limits(axes: Axes, ends: Sequence[float], marks: Sequence[tuple[float, str]]) -> None:
    """Around all ends and 1; logarithmic where they are far apart."""
    every = [1.0, *ends, *(at for at, _ in marks)]
    low, high = min(every), max(every)
    if high > LOGARITHMIC_FROM * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.1, high * 1.1)
        shown = [tick for tick in TICKS if low / 1.1 <= tick <= high * 1.1]
        axes.set_xticks(shown, [f"{tick:g}×" for tick in shown])
        axes.set_xticks([], minor=True)
    else:
        margin = 0.08 * (high - low) + 0.03
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_formatter("{x:g}×")


def _names_beside(axes: Axes, rows: Sequence[Speedup]) -> None:
    """Names on the left, figures on the right."""
    axes.set_yticks(range(len(rows)), [cut(row.name, LONGEST_NAME) for row in rows])
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), [row.words for row in rows])
    right.tick_params(axis="y", length=0)
    right.spines[:].set_visible(False)


def _names_above(axes: Axes, rows: Sequence[Speedup]) -> None:
    """Names and figures above each row."""
    axes.set_yticks([])
    across = axes.get_yaxis_transform()
    for number, row in enumerate(rows):
        figures = row.words
        name = cut(row.name, NARROW_LINE - len(figures))
        at = number - 0.16
        axes.text(0, at, name, transform=across, va="bottom", ha="left", size=9)
        axes.text(1, at, figures, transform=across, va="bottom", ha="right", size=9)


def cut(text: str, most: int) -> str:
    """`text`, shortened in the middle to `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[: half - 1]}…{text[-half:]}"


def fill(text: str, width: float, most: int | None = None) -> str:
    """`text` in lines that fit a figure of `width`, at most so many."""
    return textwrap.fill(text, int(LETTERS_PER_INCH * width), max_lines=most)
