"""Figures of a profile, a search and a bench result; drawn under `plot_style.style`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from skipopt.masks import KINDS
from skipopt.reporting.plot_style import BLUE, FAINT, INK, LINE, MUTED, ORANGE, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from skipopt.measurement.methods_table import BenchResult, MethodResult
    from skipopt.profile import DraftSettings, Profile
    from skipopt.storage.base import Trial

WIDTH = 9.0  # inches, of every figure
LONGEST = 88  # characters in a line of a title
# Of equal lightness, so that all are visible on light and on dark paper.
SHARES = ("#3f7fc4", "#8a8f98", "#d9742b")


class Speedup(NamedTuple):
    """A speedup to draw; without an interval where it is a prediction."""

    name: str
    median: float
    interval: tuple[float, float] | None = None

    @property
    def words(self) -> str:
        if self.interval is None:
            return f"{self.median:.2f}×"
        low, high = self.interval
        return f"{self.median:.2f}× ({low:.2f}–{high:.2f})"

    @property
    def ends(self) -> tuple[float, float]:
        return self.interval or (self.median, self.median)


# A profile


def draw_profile(profile: Profile) -> Figure:
    """A grid of layers for each mask, and the speedups below."""
    from matplotlib.figure import Figure

    settings = profile.draft_settings if profile.has_mask else ()
    speedups = _speedups(profile)
    rows = max(len(speedups), 0 if settings else 1)
    heights = [0.5] * len(settings) + ([0.28 * rows] if rows else [])
    figure = Figure((WIDTH, 1.1 + sum(heights) + 0.55 * len(heights)), layout="constrained")
    figure.suptitle(_profile_title(profile), x=0.01, ha="left")
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for each, later, grid in zip(settings, (*settings[1:], None), axes, strict=False):
        _draw_mask(grid, each, later, alone=len(settings) == 1)
    if settings:
        axes[len(settings) - 1].set_xlabel("layer; filled: skipped while drafting", loc="left")
    if rows:
        _draw_speedups(axes[-1], speedups)
    return figure


def _profile_title(profile: Profile) -> str:
    name = _cut(profile.model.id, LONGEST // 2)
    if not profile.enabled:
        return textwrap.fill(f"Off for {name}: {profile.reason}", LONGEST, max_lines=3)
    method = profile.drafting.method
    if profile.mask is not None:
        return f"Sublayers of {name} that are skipped while drafting ({method})"
    if profile.candidate is not None:
        return f"Best mask found for {name}; not used: the profile drafts by {method}"
    return f"Profile of {name}: drafts by {method}, without a mask"


def _draw_mask(
    grid: Axes, settings: DraftSettings, later: DraftSettings | None, alone: bool
) -> None:
    """Two rows of cells (attention, MLP), one column per layer."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    mask = settings.mask
    cells = [Rectangle((i // 2, i % 2), 1, 1) for i in range(2 * mask.layers)]
    gap = 1.5 if mask.layers <= 64 else 0.5
    colors = [BLUE if i in mask.skipped else FAINT for i in range(len(cells))]
    grid.add_collection(PatchCollection(cells, facecolor=colors, edgecolor=PAPER, lw=gap))
    grid.set_xlim(0, mask.layers)
    grid.set_ylim(len(KINDS), 0)
    grid.set_yticks([0.5, 1.5], ["attention", "MLP"])
    layers = range(0, mask.layers, 1 if mask.layers <= 12 else 5 * (1 + mask.layers // 80))
    grid.set_xticks([layer + 0.5 for layer in layers], [str(layer) for layer in layers])
    grid.tick_params(length=0)
    grid.spines[:].set_visible(False)
    grid.set_title(f"{_where(settings, later, alone)}{_limits(settings)}")


def _where(settings: DraftSettings, later: DraftSettings | None, alone: bool) -> str:
    if alone:
        return ""
    if not settings.min_context and later is not None:
        return f"below {later.min_context} tokens: "
    return f"from {settings.min_context} tokens on: "


def _limits(settings: DraftSettings) -> str:
    count = f"{len(settings.mask.skipped)} of {2 * settings.mask.layers} sublayers skipped"
    return f"{count}, γ = {settings.gamma}, τ = {settings.tau:g}"


def _speedups(profile: Profile) -> list[Speedup]:
    found = []
    if (measured := profile.measured) is not None:
        baselines = (measured.baselines or {}).items()
        named = [("measured", measured.speedup), *baselines]
        found = [Speedup(name, each.median, (each.low, each.high)) for name, each in named]
    if (predicted := profile.predicted) is not None:
        found.insert(1, Speedup("predicted", predicted.speedup))
    return found


def _draw_speedups(axes: Axes, speedups: Sequence[Speedup]) -> None:
    """A dot and its interval per row; a hollow dot is a prediction."""
    for row, each in enumerate(speedups):
        color = INK if each.name in ("measured", "predicted") else MUTED
        axes.plot(each.ends, [row, row], color=color, lw=2)
        face = PAPER if each.interval is None else color
        axes.plot(each.median, row, "o", ms=7, mec=color, mfc=face)
    ends = [end for each in speedups for end in each.ends]
    axes.set_xlim(min(1, *ends) - 0.1, max(1, *ends) + 0.1)
    axes.set_title("speedup over plain decoding; lines: 95 % intervals")
    _finish_rows(axes, speedups)


def _finish_rows(axes: Axes, speedups: Sequence[Speedup]) -> None:
    """Names on the left, figures on the right, and a dashed line at 1×, plain decoding."""
    axes.axvline(1, color=ORANGE, lw=1.2, ls=(0, (4, 3)), zorder=1)
    axes.set_ylim(len(speedups) - 0.4, -0.6)
    axes.set_yticks(range(len(speedups)), [_cut(each.name, LONGEST // 2) for each in speedups])
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(speedups)), [each.words for each in speedups])
    for side in (axes, right):
        side.tick_params(axis="y", length=0)
    right.spines[:].set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g}×")


def _cut(text: str, most: int) -> str:
    """`text`, shortened in the middle to `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[: half - 1]}…{text[-half:]}"


# A search


def draw_trials(trials: Sequence[Trial], objective: str) -> Figure:
    """The values of all trials in order, and the best so far."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    numbered = [(n, t) for n, t in enumerate(trials, 1) if isfinite(t.value)]
    numbers, values = [n for n, _ in numbered], [t.value for _, t in numbered]
    shares = [len(t.mask.skipped) / (2 * t.mask.layers) for _, t in numbered]
    figure = Figure((WIDTH, 4.8), layout="constrained")
    axes = figure.subplots()
    best = list(accumulate(values, max))
    axes.step(numbers, best, where="post", color=INK, lw=1.4, label="best so far", zorder=2)
    dots = axes.scatter(
        numbers,
        values,
        c=shares,
        cmap=LinearSegmentedColormap.from_list("shares", SHARES),
        s=26 if len(values) < 300 else 14,
        label="a trial",
        zorder=3,
    )
    bar = figure.colorbar(dots, ax=axes, format="{x:.0%}", pad=0.02, fraction=0.05)
    bar.set_label("share of sublayers skipped", color=MUTED)
    bar.outline.set_visible(False)
    axes.grid(axis="y", color=LINE, lw=0.6, alpha=0.6)
    axes.set_xlabel("trial")
    axes.set_ylabel(_value_name(objective))
    axes.margins(x=0.02)
    if values:
        top = max(range(len(values)), key=values.__getitem__)
        title = f"Best of {len(values)} trials: {values[top]:.3f}, in trial {numbers[top]}"
        figure.suptitle(f"{title}, {shares[top]:.0%} skipped", x=0.01, ha="left")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _value_name(objective: str) -> str:
    return "predicted speedup" if objective == "speed" else objective


# A bench result


def draw_bench(result: BenchResult, labels: Sequence[str], title: str) -> Figure:
    """One bar per method, the fastest on top; methods without a figure are named below."""
    from matplotlib.figure import Figure

    pairs = list(zip(labels, result.methods, strict=True))
    found = [(_speedup(label, each), each) for label, each in pairs]
    rows = sorted(
        ((speedup, each) for speedup, each in found if speedup is not None),
        key=lambda row: -row[0].median,
    )
    missing = [
        f"{label}: {each.error or 'no figure'}" for label, each in pairs if not each.speedup
    ]
    height = 1.5 + 0.32 * max(1, len(rows)) + 0.18 * len(missing)
    figure = Figure((WIDTH, height), layout="constrained")
    figure.suptitle(textwrap.fill(title, LONGEST, max_lines=3), x=0.01, ha="left")
    axes = figure.subplots()
    _draw_bars(axes, rows)
    words = ["speedup over plain decoding (dashed); lines: 95 % intervals"]
    words += (
        ["hatched: the text differs from the model's"] if any(map(differs, result.methods)) else []
    )
    words += [_cut(f"no bar: {each}", LONGEST) for each in missing]
    figure.supxlabel("\n".join(words), x=0.01, ha="left", size=10, color=MUTED)
    return figure


def _speedup(label: str, method: MethodResult) -> Speedup | None:
    found = method.speedup
    if found is None:
        return None
    return Speedup(label, found.median, (found.low, found.high))


def _draw_bars(axes: Axes, rows: Sequence[tuple[Speedup, MethodResult]]) -> None:
    for row, (speedup, method) in enumerate(rows):
        color = MUTED if method.name == "plain" else BLUE
        hatch = "////" if differs(method) else None
        axes.barh(row, speedup.median, 0.62, color=color, hatch=hatch, edgecolor=PAPER, lw=0)
        axes.plot(speedup.ends, [row, row], color=INK, lw=1.6)
    axes.set_xlim(0, 1.05 * max([1.0, *(speedup.ends[1] for speedup, _ in rows)]))
    _finish_rows(axes, [speedup for speedup, _ in rows])


def differs(method: MethodResult) -> bool:
    """Whether the text may differ, by the method's guarantee, or did differ."""
    failed = method.lossless is not None and method.lossless.verdict == "failed"
    return failed or method.guarantee == "none"
