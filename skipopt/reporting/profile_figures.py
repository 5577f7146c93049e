"""Figures of a profile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from skipopt.reporting.forest import (
    Kind,
    Speedup,
    cut,
    draw_forest,
    draw_rows,
    fill,
    forest_height,
)
from skipopt.reporting.forest import legend as forest_legend
from skipopt.reporting.plot_style import MUTED
from skipopt.reporting.report import Picture
from skipopt.reporting.strips import STRIP_HEIGHT, draw_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from skipopt.profile import DraftSettings, Profile
    from skipopt.profile.sections import SearchSection
    from skipopt.reporting.scatter import Predicted

LONGEST_NAME = 44


def profile_figures(profile: Profile) -> tuple[Picture, ...]:
    """The figures that the profile has values for."""
    return tuple(each for each in _figures(profile) if each is not None)


def _figures(profile: Profile) -> Sequence[Picture | None]:
    return (
        _mask_figure(profile),
        _speedup_figure(profile),
        _prediction_figure(profile),
        _ablation_figure(profile),
        _time_figure(profile),
    )


def drawn_settings(profile: Profile) -> tuple[DraftSettings, ...]:
    """Masks that the profile drafts with, of those that skip anything."""
    if profile.mask is None:
        return ()
    settings = profile.draft_settings
    return settings if any(each.mask.skipped for each in settings) else ()


def profile_speedups(profile: Profile) -> list[Speedup]:
    """Measured and predicted speedups of decoding alone, the profile's method first."""
    found = []
    method = profile.drafting.method
    if (expected := profile.expected) is not None:
        ends = (expected.low, expected.high)
        found.append(Speedup("expected end to end", expected.speedup, ends))
    measured = profile.measured
    if measured is not None:
        if measured.end_to_end is not None:
            found.append(Speedup.of("measured end to end", measured.end_to_end))
        found.append(Speedup.of(f"measured: {method}", measured.speedup))
    if (predicted := profile.predicted) is not None:
        found.append(Speedup(f"predicted: {method}", predicted.speedup, kind="predicted"))
    for name, speedup in ((measured and measured.baselines) or {}).items():
        found.append(Speedup.of(name, speedup, "reference"))
    return found


def _mask_figure(profile: Profile) -> Picture | None:
    if not drawn_settings(profile):
        return None
    alt_text = f"{profile.skip_mask} skipped while drafting; all figures are in the table"
    return Picture("mask", alt_text, partial(draw_masks, profile))


def draw_masks(profile: Profile, width: float) -> Figure:
    """A grid of layers for each mask, and the speedups below."""
    from matplotlib.figure import Figure

    settings, speedups = drawn_settings(profile), profile_speedups(profile)
    heights = [STRIP_HEIGHT] * len(settings)
    if speedups:
        heights.append(forest_height(speedups, width))
    title = fill(_title(profile), width, 3)
    height = 1.1 + sum(heights) + 0.6 * len(heights) + 0.2 * title.count("\n")
    figure = Figure((width, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for each, later, grid in zip(settings, (*settings[1:], None), axes, strict=False):
        draw_mask(grid, each.mask, width)
        where = _where(each, later, alone=len(settings) == 1)
        grid.set_title(fill(f"{where}{_limits(each)}", width))
    axes[len(settings) - 1].set_xlabel("layer; filled: skipped while drafting", loc="left")
    if speedups:
        draw_rows(axes[-1], speedups, width)
        words = fill(forest_legend(speedups)[0], width)
        figure.supxlabel(words, x=0.01, ha="left", size=10, color=MUTED)
    return figure


def _title(profile: Profile) -> str:
    name = cut(profile.model.id, LONGEST_NAME)
    if not profile.enabled:
        return f"Off for {name}: {profile.reason}"
    method = profile.drafting.method
    if drawn_settings(profile):
        return f"Sublayers of {name} that are skipped while drafting ({method})"
    return f"{name}: {method}"


def _where(settings: DraftSettings, later: DraftSettings | None, alone: bool) -> str:
    if alone:
        return ""
    if not settings.min_context and later is not None:
        return f"below {later.min_context} tokens: "
    return f"from {settings.min_context} tokens on: "


def _limits(settings: DraftSettings) -> str:
    count = f"{len(settings.mask.skipped)} of {2 * settings.mask.layers} sublayers skipped"
    return f"{count}, γ = {settings.gamma}, τ = {settings.tau:g}"


def _speedup_figure(profile: Profile) -> Picture | None:
    rows = profile_speedups(profile)
    if not rows:
        return None
    alt_text = "; ".join(f"{row.name} {row.words}" for row in rows)
    notes = ["gray: other methods in the same runs; decoding alone, where not end to end"]
    title = f"Speedups of {cut(profile.model.id, LONGEST_NAME)}: {profile.drafting.method}"
    return Picture(
        "speedup",
        alt_text,
        lambda width: draw_forest(
            rows, width, title if profile.enabled else _title(profile), notes
        ),
        on_page=not drawn_settings(profile),  # else they stand below the mask
    )


def _prediction_figure(profile: Profile) -> Picture | None:
    from skipopt.reporting.scatter import draw_predictions

    points = predictions(profile)
    if not points:
        return None
    alt_text = "; ".join(
        f"{each.name}: predicted {each.predicted:.2f}×, measured {each.measured.median:.2f}×"
        for each in points
    )
    return Picture("prediction", alt_text, partial(draw_predictions, points))


def predictions(profile: Profile) -> list[Predicted]:
    """Of the profile's method, and of the others that had a prediction."""
    from skipopt.reporting.scatter import Predicted

    if profile.predicted is None or profile.measured is None:
        return []
    measured = profile.measured
    found = [Predicted(profile.drafting.method, profile.predicted.speedup, measured.speedup)]
    others = measured.baselines or {}
    for name, predicted in (measured.baselines_predicted or {}).items():
        if name in others:
            found.append(Predicted(name, predicted, others[name]))
    return found


def _ablation_figure(profile: Profile) -> Picture | None:
    from skipopt.reporting.profiles import part_name

    gains = profile.ablation.gains if profile.ablation is not None else {}
    if not gains:
        return None
    rows = [
        Speedup(part_name(name), gain.speedup, None, _kind(gain.source))
        for name, gain in gains.items()
    ]
    title = f"What each part of the drafts gains alone: {cut(profile.model.id, LONGEST_NAME)}"
    alt_text = "; ".join(f"{row.name} {row.words}" for row in rows)
    return Picture(
        "ablation",
        alt_text,
        lambda width: draw_forest(rows, width, title, ["decoding alone; filled: measured"]),
    )


def _kind(source: str) -> Kind:
    return "predicted" if source == "predicted" else "method"


def _time_figure(profile: Profile) -> Picture | None:
    seconds = profile.search.seconds_by_phase if profile.search is not None else None
    if profile.search is None or not seconds:
        return None
    alt_text = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return Picture("time", alt_text, partial(_draw_search_time, profile.search))


def _draw_search_time(search: SearchSection, width: float) -> Figure:
    from skipopt.reporting.bars import draw_stacked
    from skipopt.reporting.profiles import phase_name

    named = {phase_name(name): value for name, value in (search.seconds_by_phase or {}).items()}
    title = f"Time of the search by phase: {search.trials} trials in {search.seconds:.0f} s"
    return draw_stacked({"search": named}, width, title, "seconds", "{:.0f} s")
