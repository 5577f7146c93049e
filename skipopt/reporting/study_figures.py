"""Figures of a stored search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from math import isfinite
from typing import TYPE_CHECKING

from skipopt.errors import SkipoptError
from skipopt.masks import sublayer_name
from skipopt.reporting.forest import fill
from skipopt.reporting.plot_style import FAINT, INK, LINE, MUTED, ORANGE, is_narrow
from skipopt.reporting.report import Picture
from skipopt.reporting.scatter import Operating, draw_front
from skipopt.reporting.sensitivity import Sensitivity, sensitivity
from skipopt.reporting.strips import draw_strip

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import ColorType

    from skipopt.storage.base import Trial

# Of equal lightness, so that all are visible on light and on dark paper.
SHARES = ("#3f7fc4", "#8a8f98", "#d9742b")
SMALLEST_EFFECT = 0.01  # that the ends of the scale stand for
MANY = 300  # trials that are drawn as smaller dots


def study_figures(trials: Sequence[Trial], objective: str) -> tuple[Picture, ...]:
    """The figures that the trials have values for."""
    alt_text = f"the values of {len(trials)} trials in their order; the best are in the table"
    found = [
        Picture("trials", alt_text, partial(draw_trials, trials, objective)),
        _sensitivity_figure(trials, objective),
        _front_figure(trials),
    ]
    return tuple(each for each in found if each is not None)


def draw_trials(trials: Sequence[Trial], objective: str, width: float) -> Figure:
    """The values of all trials in order, the best so far, and 1× where values are speedups."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    numbered = [(n, t) for n, t in enumerate(trials, 1) if isfinite(t.value)]
    numbers, values = [n for n, _ in numbered], [t.value for _, t in numbered]
    shares = [len(t.mask.skipped) / (2 * t.mask.layers) for _, t in numbered]
    figure = Figure((width, 4.8), layout="constrained")
    axes = figure.subplots()
    best = list(accumulate(values, max))
    axes.step(numbers, best, where="post", color=INK, lw=1.4, label="best so far", zorder=2)
    dots = axes.scatter(
        numbers,
        values,
        c=shares,
        cmap=LinearSegmentedColormap.from_list("shares", SHARES),
        vmin=0,
        vmax=1,
        s=26 if len(values) < MANY else 14,
        label="a trial",
        zorder=3,
    )
    if objective == "speed":
        dashed = (0, (4, 3))
        axes.axhline(1, color=ORANGE, lw=1.2, ls=dashed, zorder=1, label="1×: plain decoding")
        axes.yaxis.set_major_formatter("{x:g}×")
    bar = figure.colorbar(dots, ax=axes, format="{x:.0%}", pad=0.02, fraction=0.05)
    bar.set_label("share of sublayers skipped", color=MUTED)
    bar.outline.set_visible(False)
    axes.grid(axis="y", color=LINE, lw=0.6, alpha=0.6)
    axes.set_xlabel("trial")
    axes.set_ylabel(_value_name(objective))
    axes.margins(x=0.02)
    if values:
        top = max(range(len(values)), key=values.__getitem__)
        sign = "×" if objective == "speed" else ""
        title = f"Best of {len(values)} trials: {values[top]:.3f}{sign}, in trial {numbers[top]}"
        words = fill(f"{title}, {shares[top]:.0%} skipped", width)
        figure.suptitle(words, x=0.01, ha="left")
    figure.legend(frameon=False, loc="outside lower left", ncols=1 if is_narrow(width) else 3)
    return figure


def _value_name(objective: str) -> str:
    return "predicted speedup" if objective == "speed" else objective


def _sensitivity_figure(trials: Sequence[Trial], objective: str) -> Picture | None:
    try:
        found = sensitivity(trials)
    except SkipoptError:
        return None
    known = [(effect, i) for i, effect in enumerate(found.effects) if effect is not None]
    (least, worst), (most, best) = min(known), max(known)
    alt_text = (
        f"skipping {sublayer_name(best)} changes the {_value_name(objective)} by {most:+.1%}, "
        f"skipping {sublayer_name(worst)} by {least:+.1%}"
    )
    return Picture("sensitivity", alt_text, partial(draw_sensitivity, found, objective))


def draw_sensitivity(found: Sensitivity, objective: str, width: float) -> Figure:
    """Each sublayer as a cell, like a mask: blue where skipping helps, orange where it hurts."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    title = fill(
        f"Change of the {_value_name(objective)} by skipping each sublayer "
        f"(least squares, {found.trials} trials)",
        width,
    )
    figure = Figure((width, 2.2 + 0.2 * title.count("\n")), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    axes = figure.subplots()
    largest = max(SMALLEST_EFFECT, *(abs(each) for each in found.effects if each is not None))
    colors = LinearSegmentedColormap.from_list("effects", SHARES[::-1])
    norm = Normalize(-largest, largest)
    fills: list[ColorType] = [
        FAINT if each is None else colors(norm(each)) for each in found.effects
    ]
    draw_strip(axes, found.layers, width).set_facecolor(fills)
    unknown = "; faint: never tried both ways" if None in found.effects else ""
    axes.set_xlabel(f"layer{unknown}", loc="left")
    bar = figure.colorbar(
        ScalarMappable(norm, colors),
        ax=axes,
        location="bottom",
        format=lambda value, _: f"{value:+.1%}" if value else "0%",
        ticks=[-largest, 0, largest],
        aspect=40,
        shrink=0.6,
        anchor=(0.0, 0.5),
    )
    bar.outline.set_visible(False)
    return figure


def _front_figure(trials: Sequence[Trial]) -> Picture | None:
    predictions = [each.prediction for each in trials if each.prediction is not None]
    points = [
        Operating(cost, length)
        for each in predictions
        if (cost := each.round_cost) and (length := each.mean_acceptance_length)
    ]
    if not points:
        return None
    best = max(points, key=lambda point: point.speedup)
    points = [*points, best._replace(name="the fastest")]
    alt_text = (
        f"the fastest of {len(points) - 1} trials makes {best.tokens:.2f} tokens in a round of "
        f"{best.cost:.2f} plain steps, {best.speedup:.2f}×"
    )
    title = "Predicted tokens per round against its cost, of every trial"
    return Picture("pareto", alt_text, lambda width: draw_front(points, width, title))
