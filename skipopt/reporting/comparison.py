"""Two profiles, or two bench results, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from skipopt.reporting.forest import Speedup, cut, draw_rows, fill, forest_height, legend
from skipopt.reporting.intervals import interval
from skipopt.reporting.plot_style import MUTED
from skipopt.reporting.profile_figures import drawn_settings, profile_speedups
from skipopt.reporting.profiles import expected_interval, part_name
from skipopt.reporting.report import Picture, Report, TableData
from skipopt.reporting.strips import STRIP_HEIGHT, draw_mask
from skipopt.reporting.terminal_table import TerminalTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from skipopt.measurement.methods_table import BenchResult
    from skipopt.profile import Profile

DASH = "–"
LONGEST_NAME = 30
TEXT_WIDTH = 18  # columns of a speedup with its interval


def profiles_table(profiles: Sequence[Profile], names: Sequence[str]) -> TableData:
    """One row per figure, one column per profile; rows in which there is nothing are left out."""
    columns = [_profile_cells(profile) for profile in profiles]
    keys = list(dict.fromkeys(key for cells in columns for key in cells))
    rows = tuple((key, *(cells.get(key, DASH) for cells in columns)) for key in keys)
    return TableData(("", *names), rows, frozenset(range(len(names) + 1)))


def _profile_cells(profile: Profile) -> dict[str, str]:
    """The figures of a profile that two profiles are compared by."""
    cells = {
        "profile": "enabled" if profile.enabled else "off",
        "model": profile.model.id,
        "method": profile.drafting.method,
    }
    if profile.mask is not None:
        mask, drafting = profile.skip_mask, profile.drafting
        cells["skipped"] = f"{len(mask.skipped)} of {2 * mask.layers} sublayers"
        cells["γ, τ"] = f"{drafting.gamma}, {drafting.tau:g}"
        cells["draft config"] = str(profile.draft_config or DASH)
    if profile.predicted is not None:
        cells["predicted"] = f"{profile.predicted.speedup:.2f}×"
    if profile.expected is not None:
        cells["expected end to end"] = expected_interval(profile.expected)
    if (measured := profile.measured) is not None:
        if measured.end_to_end is not None:
            cells["measured end to end"] = interval(measured.end_to_end)
        cells["measured decoding"] = interval(measured.speedup)
        cells["tokens/s"] = f"{measured.tokens_per_second:.1f}"
        cells["plain tokens/s"] = f"{measured.plain_tokens_per_second:.1f}"
        if measured.acceptance_rate is not None:
            cells["acceptance rate"] = f"{measured.acceptance_rate:.2f}"
        cells["mean acceptance length"] = f"{measured.mean_acceptance_length:.2f}"
        cells["lossless"] = measured.lossless
    if profile.ablation is not None:
        for name, gain in profile.ablation.gains.items():
            cells[f"gain: {part_name(name)}"] = f"{gain.speedup:.2f}× ({gain.source})"
    if profile.search is not None:
        cells["search"] = f"{profile.search.trials} trials in {profile.search.seconds:.0f} s"
    if (where := profile.environment) is not None:
        cells["measured on"] = f"{where.device}, {where.dtype}, {where.runtime}, {where.threads}"
    return cells


def bench_comparison(results: Sequence[BenchResult], names: Sequence[str]) -> TableData:
    """One row per method, with its decoding speedup in each result."""
    columns = [
        {m.name: interval(m.speedup) for m in result.methods if m.speedup is not None}
        for result in results
    ]
    methods = list(dict.fromkeys(name for cells in columns for name in cells))
    rows = tuple((name, *(cells.get(name, DASH) for cells in columns)) for name in methods)
    return TableData(("method", *names), rows, frozenset((0,)), "Speedup of decoding alone.")


def comparison_text(data: TableData) -> TerminalTable:
    """The comparison for a terminal."""
    return TerminalTable(data, "", text_width=TEXT_WIDTH)


def profiles_report(profiles: Sequence[Profile], names: Sequence[str]) -> Report:
    """Masks and speedups of the profiles, one above the other, on one scale."""
    rows = {name: profile_speedups(profile) for name, profile in zip(names, profiles, strict=True)}
    pictures = []
    if any(rows.values()) or any(map(drawn_settings, profiles)):
        alt_text = f"masks and speedups of {' and '.join(names)}; the figures are in the table"
        draw = partial(_draw_profiles, profiles, names)
        name = "mask" if any(map(drawn_settings, profiles)) else "speedup"
        pictures.append(Picture(name, alt_text, draw))
    title = f"{' and '.join(names)} compared"
    return Report(title, tuple(pictures), profiles_table(profiles, names))


def benches_report(results: Sequence[BenchResult], names: Sequence[str]) -> Report:
    """Speedups of each method in both results."""
    from skipopt.reporting.forest import draw_forest

    methods = dict.fromkeys(m.name for result in results for m in result.methods)
    rows = [
        Speedup.of(f"{method} · {name}", found, "method" if number else "reference")
        for method in methods
        for number, (name, result) in enumerate(zip(names, results, strict=True))
        for each in result.methods
        if each.name == method and (found := each.speedup) is not None
    ]
    alt_text = "; ".join(f"{row.name} {row.words}" for row in rows)
    title = f"{' and '.join(names)} compared"
    picture = Picture("speedup", alt_text, lambda width: draw_forest(rows, width, title))
    return Report(title, (picture,) if rows else (), bench_comparison(results, names))


def _draw_profiles(profiles: Sequence[Profile], names: Sequence[str], width: float) -> Figure:
    from matplotlib.figure import Figure

    masks = [
        (name, profile.skip_mask)
        for name, profile in zip(names, profiles, strict=True)
        if drawn_settings(profile)
    ]
    speedups = [
        each._replace(name=f"{cut(name, LONGEST_NAME)} · {each.name}")
        for name, profile in zip(names, profiles, strict=True)
        for each in profile_speedups(profile)
    ]
    heights = [STRIP_HEIGHT] * len(masks) + ([forest_height(speedups, width)] if speedups else [])
    figure = Figure((width, 1.1 + sum(heights) + 0.6 * len(heights)), layout="constrained")
    figure.suptitle(fill(f"{' and '.join(names)} compared", width, 2), x=0.01, ha="left")
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for (name, mask), grid in zip(masks, axes, strict=False):
        draw_mask(grid, mask, width)
        count = f"{len(mask.skipped)} of {2 * mask.layers} sublayers skipped"
        grid.set_title(fill(f"{cut(name, LONGEST_NAME)}: {count}", width))
    if masks:
        axes[len(masks) - 1].set_xlabel("layer; filled: skipped while drafting", loc="left")
    if speedups:
        draw_rows(axes[-1], speedups, width)
        words = fill(legend(speedups)[0], width)
        figure.supxlabel(words, x=0.01, ha="left", size=10, color=MUTED)
    return figure
