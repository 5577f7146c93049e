"""Scatter plots: predicted against measured, and tokens per round against the cost of a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from skipopt.reporting.forest import cut, fill
from skipopt.reporting.intervals import AnyInterval
from skipopt.reporting.plot_style import FILLS, INK, LINE, MUTED, ORANGE, is_narrow, legend_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ISO_SPEEDUPS = (0.5, 0.75, 1.5, 2, 3, 4)  # besides 1
MARKERS = "osD^vPX*<>h"  # as many as share no divisor with the colors
DASHED = (0, (4, 3))


class Predicted(NamedTuple):
    """A speedup before and after it was measured."""

    name: str
    predicted: float
    measured: AnyInterval


def draw_predictions(points: Sequence[Predicted], width: float) -> Figure:
    """Measured over predicted speedups, with the diagonal and 1× on both axes."""
    title = "Predicted against measured speedup, decoding alone"
    figure, axes = _figure(width, title, len(points))
    every = [1.0, *(each.predicted for each in points)]
    every += [end for each in points for end in (each.measured.low, each.measured.high)]
    low, high = min(every) - 0.1, max(every) + 0.1
    axes.plot((low, high), (low, high), color=LINE, lw=1.2, zorder=1)
    axes.text(high, high, "as predicted ", ha="right", va="top", color=MUTED, size=9)
    axes.axhline(1, color=ORANGE, lw=1.2, ls=DASHED, zorder=1)
    axes.axvline(1, color=ORANGE, lw=1.2, ls=DASHED, zorder=1)
    for number, each in enumerate(points):
        color = FILLS[number % len(FILLS)]
        ends = (each.measured.low, each.measured.high)
        axes.plot((each.predicted, each.predicted), ends, color=color, lw=1.6)
        words = f"{cut(each.name, 30)}: {each.predicted:.2f}× → {each.measured.median:.2f}×"
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(
            each.predicted, each.measured.median, marker, ms=8, color=color, label=words, ls="none"
        )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("predicted")
    axes.set_ylabel("measured; lines: 95 % intervals")
    _times(axes)
    _named(figure)
    return figure


class Operating(NamedTuple):
    """What a round yields and what it costs.

    Attributes:
        cost: of a round, in plain steps.
        tokens: per round, the target's own included; their quotient is the speedup.
        name: empty for one of many.
    """

    cost: float
    tokens: float
    name: str = ""

    @property
    def speedup(self) -> float:
        return self.tokens / self.cost


def front(points: Sequence[Operating]) -> list[Operating]:
    """Those that no other beats in both: no dearer, and no fewer tokens."""
    best: list[Operating] = []
    for each in sorted(points, key=lambda p: (p.cost, -p.tokens)):
        if not best or each.tokens > best[-1].tokens:
            best.append(each)
    return best


def draw_front(points: Sequence[Operating], width: float, title: str) -> Figure:
    """Tokens over cost of a round; lines of equal speedup run through the origin."""
    figure, axes = _figure(width, title, 2 + sum(bool(each.name) for each in points))
    best = front(points)
    right = 1.06 * max(1.0, *(each.cost for each in points))
    left = 0.94 * min(1.0, *(each.cost for each in points))
    top = 1.06 * max(1.0, *(each.tokens for each in points))
    bottom = 0.94 * min(1.0, *(each.tokens for each in points))
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    for speedup in (1.0, *ISO_SPEEDUPS):
        _iso_line(axes, speedup, (left, right), (bottom, top))
    named = [each for each in points if each.name]
    others = [each for each in points if not each.name]
    if others:
        many = f"a trial ({len(others)})"
        at = [each.cost for each in others], [each.tokens for each in others]
        axes.plot(*at, "o", ms=3.5, color=MUTED, alpha=0.6, label=many, ls="none", mew=0)
    axes.plot(
        [each.cost for each in best],
        [each.tokens for each in best],
        color=INK,
        lw=1.2,
        drawstyle="steps-post",
        label="Pareto front",
        zorder=2,
    )
    for number, each in enumerate(named):
        words = f"{cut(each.name, 34)}: {each.speedup:.2f}×"
        color, marker = FILLS[number % len(FILLS)], MARKERS[number % len(MARKERS)]
        axes.plot(each.cost, each.tokens, marker, ms=8, color=color, label=words, ls="none")
    axes.set_xlabel("cost of a round, in plain steps")
    axes.set_ylabel("tokens per round")
    _named(figure)
    return figure


def _iso_line(axes: Axes, speedup: float, x: tuple[float, float], y: tuple[float, float]) -> None:
    """From where the line enters the axes to where it leaves them, with its name at the end."""
    begin, end = max(x[0], y[0] / speedup), min(x[1], y[1] / speedup)
    if begin >= end:
        return
    is_plain = speedup == 1
    color, line = (ORANGE, DASHED) if is_plain else (LINE, "-")
    axes.plot(
        (begin, end), (speedup * begin, speedup * end), color=color, lw=1.2, ls=line, zorder=1
    )
    axes.annotate(
        f"{speedup:g}×",
        (end, speedup * end),
        xytext=(3, 3) if end < x[1] else (3, -3),
        textcoords="offset points",
        color=ORANGE if is_plain else MUTED,
        size=9,
        annotation_clip=False,
    )


def _figure(width: float, title: str, names: int) -> tuple[Figure, Axes]:
    """A figure with room for so many names beside or below its axes."""
    from matplotlib.figure import Figure

    beside, below = max(4.8, 0.8 + 0.21 * names), 4.4 + 0.21 * names
    height = below if is_narrow(width) else beside
    figure = Figure((width, height), layout="constrained")
    figure.suptitle(fill(title, width, 3), x=0.01, ha="left")
    return figure, figure.subplots()


def _times(axes: Axes) -> None:
    axes.locator_params(nbins=6)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.yaxis.set_major_formatter("{x:g}×")


def _named(figure: Figure) -> None:
    """What the marks mean, beside a wide figure and below a narrow one."""
    place = legend_place(figure.get_figwidth())
    figure.legend(loc=place, frameon=False, fontsize=9, labelcolor=INK)
