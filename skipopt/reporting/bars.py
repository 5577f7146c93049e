"""Stacked bars, one row each: where time went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from skipopt.reporting.forest import cut, fill
from skipopt.reporting.plot_style import FILLS, INK, PAPER, is_narrow

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

LEAST_SHARE = 0.07  # of the axis, that a part needs for its figure
LEAST_SHARE_NARROW = 0.14
LONGEST_NAME = 30


def draw_stacked(
    rows: Mapping[str, Mapping[str, float]], width: float, title: str, unit: str, form: str
) -> Figure:
    """One bar per row, its parts in their order, each with its figure where there is room.

    Args:
        unit: below the axis.
        form: of a figure, as `{:.0f} s`.
    """
    from matplotlib.figure import Figure

    narrow = is_narrow(width)
    heading = fill(title, width, 3)
    height = 1.5 + (0.62 if narrow else 0.36) * len(rows) + 0.2 * heading.count("\n")
    figure = Figure((width, height), layout="constrained")
    figure.suptitle(heading, x=0.01, ha="left")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    fills = dict(zip(names, FILLS * (1 + len(names) // len(FILLS)), strict=False))
    longest = max(sum(parts.values()) for parts in rows.values()) or 1.0
    least = (LEAST_SHARE_NARROW if narrow else LEAST_SHARE) * longest
    for number, (row, parts) in enumerate(rows.items()):
        left = 0.0
        for name, value in parts.items():
            axes.barh(number, value, 0.6, left, color=fills[name], edgecolor=PAPER, lw=1)
            if value >= least:
                words = form.format(value)
                axes.text(left + value / 2, number, words, ha="center", va="center", color=PAPER)
            left += value
        total = f" {form.format(left)}"
        axes.text(left, number, total, va="center", ha="left", color=INK)
        if narrow:
            axes.text(0, number - 0.34, cut(row, LONGEST_NAME), va="bottom", ha="left", size=9)
    axes.set_xlim(0, (1.2 if narrow else 1.1) * longest)
    axes.set_ylim(len(rows) - 0.5, -0.9 if narrow else -0.5)
    axes.set_yticks(range(len(rows)), [""] * len(rows) if narrow else [cut(r, 44) for r in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(unit, loc="left")
    handles = [_patch(fills[name], name) for name in names]
    columns = 3 if narrow else len(names)
    figure.legend(handles=handles, loc="outside lower left", frameon=False, ncols=columns)
    return figure


def _patch(color: str, name: str) -> Patch:
    from matplotlib.patches import Patch

    return Patch(color=color, label=name)
