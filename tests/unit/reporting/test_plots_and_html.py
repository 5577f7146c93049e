"""Figures and HTML pages: their content, and that pages are self-contained."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest
from support.figures import Page, size_of, words_of

from skipopt.cost_model.prediction import Prediction
from skipopt.draft_config import DraftConfig
from skipopt.errors import SkipoptError
from skipopt.masks import SkipMask
from skipopt.profile import CandidateSection, Profile
from skipopt.reporting.html import to_html
from skipopt.reporting.plot_style import (
    DARK,
    LIGHT,
    NARROW,
    ORANGE,
    WIDE,
    style,
    to_pdf,
    to_png,
    to_svg,
    to_svg_file,
)
from skipopt.reporting.profile_figures import draw_masks
from skipopt.reporting.profiles import profile_report
from skipopt.reporting.report import Report
from skipopt.reporting.scatter import Operating, draw_front, front
from skipopt.reporting.sensitivity import sensitivity
from skipopt.reporting.studies import load_study, study_report
from skipopt.reporting.study_figures import draw_trials, study_figures
from skipopt.storage.base import Trial
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyIdentity, StudyLocation
from skipopt.storage.workers import DEFAULT_STUDY

pytestmark = pytest.mark.usefixtures("plots")

GOLDEN = (Path(__file__).parents[2] / "golden" / "profile.yaml").read_text(encoding="utf-8")
CONTEXTS = """\
contexts:
- {min_context: 512, mask: {attention: [0], mlp: [15]}, drafting: {gamma: 4, tau: 0.25}}
- {min_context: 2048, mask: {attention: [], mlp: []}, drafting: {gamma: 2, tau: 0.5}}
predicted:
"""
BLUE = (0x2F / 255, 0x6F / 255, 0xB0 / 255, 1.0)
NASTY = "a<b>&\"'--></svg><script>alert(1)</script>$x_1$ 日本"


def golden_profile() -> Profile:
    return Profile.parse(GOLDEN, "p.yaml")


def trial(number: int, value: float) -> Trial:
    return Trial(SkipMask.of(4, range(number)), value)


VALUES = (0.5, 0.75, 0.625, 1.25, 1.125)


@pytest.fixture
def study(tmp_path: Path) -> Any:
    path = str(tmp_path / "j.journal")
    identity = StudyIdentity(4, model="sha256:0", prompts="sha256:1", objective="speed")
    journal = OptunaStorage(StudyLocation(path, DEFAULT_STUDY, identity))
    for number, value in enumerate(VALUES):
        journal.append(trial(number, value))
    return load_study(path)


@pytest.fixture(params=["profile", "contexts", "study"])
def report(request: pytest.FixtureRequest, study: Any) -> Report:
    by_length = Profile.parse(GOLDEN.replace("predicted:\n", CONTEXTS), "p.yaml")
    made: dict[str, Report] = {
        "profile": profile_report(golden_profile()),
        "contexts": profile_report(by_length),
        "study": study_report(study, 3),
    }
    return made[request.param]


def fills(report: Report) -> list[str]:
    return re.findall(r"fill: (var\(--\w+\)|url)", to_svg(report.picture(None).draw))


# All of them


def test_a_picture_is_a_png_of_readable_size(report: Report) -> None:
    png = to_png(report.picture(None).draw)
    width, height = size_of(png)
    assert width == 1296
    assert 300 < height < 1600
    assert png.endswith(b"IEND\xaeB`\x82")


def test_a_page_is_self_contained_with_light_and_dark_colors(report: Report) -> None:
    text = to_html(report)
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert names[0] == "html"
    assert names.count("table") == names.count("h1") == 1
    shown = [picture for picture in report.pictures if picture.on_page]
    assert names.count("svg") == 2 * len(shown)  # wide and narrow
    ids = [each for _, attributes in page.tags if (each := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    assert not {"script", "link", "iframe", "img", "object"} & set(names)
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/png;base64,"))
    assert "@import" not in text
    assert "url(http" not in text
    assert "@media (prefers-color-scheme: dark)" in text
    style_sheet, figure = text.split("<body>")
    for name in LIGHT:
        assert f"--{name}: {LIGHT[name]};" in style_sheet
        assert f"--{name}: {DARK[name]};" in style_sheet
        assert LIGHT[name] not in figure, "a fixed color in the dark page"
    assert "var(--ink)" in figure


def test_a_page_holds_the_table_of_the_terminal(report: Report) -> None:
    page = Page(to_html(report))
    rows = [*([report.table.columns] if report.table.columns else []), *report.table.rows]
    assert page.rows == [list(row) for row in rows]
    assert len(page.rows) > 3


def test_the_same_report_is_the_same_file(report: Report) -> None:
    assert to_html(report) == to_html(report)
    assert to_png(report.picture(None).draw) == to_png(report.picture(None).draw)


def test_drawing_leaves_matplotlibs_settings_alone(report: Report) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    to_png(report.picture(None).draw)
    assert dict(matplotlib.rcParams) == before


def test_a_users_own_style_changes_nothing() -> None:
    import matplotlib

    report = profile_report(golden_profile())
    expected = to_png(report.picture(None).draw)
    with matplotlib.rc_context({"font.size": 40, "savefig.dpi": 20, "savefig.bbox": "tight"}):
        assert to_png(report.picture(None).draw) == expected


# A profile


def test_a_profiles_figure_shows_mask_and_speedup() -> None:
    report = profile_report(golden_profile())
    words = words_of(report)
    assert "6 of 32 sublayers skipped, γ = 6, τ = 0.5512" in words
    assert {"attention", "MLP", "measured: layer-skip", "predicted: layer-skip"} <= set(words)
    assert "1.39× (1.35–1.43)" in words
    assert "1.41×" in words
    cells = fills(report)
    assert cells.count("var(--faint)") == 26
    colors = mask_colors(golden_profile())
    assert [n for n, each in enumerate(colors) if each == pytest.approx(BLUE)] == [
        6, 9, 10, 11, 12, 19,
    ]  # fmt: skip


def test_a_profile_by_length_has_a_grid_each() -> None:
    report = profile_report(Profile.parse(GOLDEN.replace("predicted:\n", CONTEXTS), "p.yaml"))
    words = words_of(report)
    assert "below 512 tokens: 6 of 32 sublayers skipped, γ = 6, τ = 0.5512" in words
    assert "from 512 tokens on: 2 of 32 sublayers skipped, γ = 4, τ = 0.25" in words
    assert "from 2048 tokens on: 0 of 32 sublayers skipped, γ = 2, τ = 0.5" in words
    assert words.count("attention") == 3
    assert fills(report).count("var(--faint)") == 3 * 32 - 6 - 2
    assert any(label == "from 512" for label, _ in report.table.rows)


def test_a_profile_without_figures_shows_only_its_mask() -> None:
    made = golden_profile()
    bare = made.model_copy(
        update=dict.fromkeys(("predicted", "measured", "search", "environment"))
    )
    words = words_of(profile_report(bare))
    assert "attention" in words
    assert not any("×" in word for word in words)


def test_a_disabled_profile_shows_its_reason() -> None:
    off = golden_profile().model_copy(update={"enabled": False, "reason": "it costs more"})
    assert "Off for builtin: it costs more" in words_of(profile_report(off))


def mask_colors(profile: Profile) -> list[tuple[float, ...]]:
    """The colors of the first strip of cells."""
    with style():
        [strip] = draw_masks(profile, WIDE).axes[0].collections
        return [tuple(each) for each in strip.get_facecolor()]  # type: ignore[union-attr]


def without_mask() -> Profile:
    made = golden_profile()
    drafting = made.drafting.model_copy(update={"method": "suffix", "gamma": None, "tau": None})
    candidate = CandidateSection(attention=(1, 2), mlp=(3,), gamma=3, tau=0.5)
    return made.model_copy(update={"mask": None, "drafting": drafting, "candidate": candidate})


def test_no_mask_is_drawn_for_a_method_without_one() -> None:
    report = profile_report(without_mask())
    assert "mask" not in [each.name for each in report.pictures]
    assert "attention" not in words_of(report)
    assert "measured: suffix" in words_of(report)
    with pytest.raises(SkipoptError, match="holds nothing for mask") as caught:
        report.picture("mask")
    assert "speedup" in str(caught.value.hint)


def full() -> Profile:
    """With every optional section that figures need."""
    found = (
        GOLDEN.replace(
            "baselines: null",
            "baselines: {suffix: {median: 1.2, low: 0.9, high: 1.5}}",
        )
        .replace("baselines_predicted: null", "baselines_predicted: {suffix: 1.25}")
        .replace("seconds_by_phase: null", "seconds_by_phase: {calibrate: 11.0, search: 30.0}")
        .replace(
            "search:\n",
            "ablation:\n  mask: {speedup: 1.1, source: measured}\n"
            "  quant: {speedup: 0.9, source: predicted}\nsearch:\n",
        )
    )
    return Profile.parse(found, "p.yaml")


PROFILE_FIGURES = ("mask", "speedup", "prediction", "ablation", "time")


def test_every_figure_of_a_profile_shows_its_values() -> None:
    report = profile_report(full())
    assert tuple(each.name for each in report.pictures) == PROFILE_FIGURES
    assert "suffix: 1.25× → 1.20×" in words_of(report, "prediction")
    assert {"mask", "1.10×", "weight bits", "0.90×"} <= set(words_of(report, "ablation"))
    assert {"11 s", "30 s", "texts", "trials"} <= {
        each.strip() for each in words_of(report, "time")
    }
    assert {"suffix", "1.20× (0.90–1.50) ?"} <= set(words_of(report, "speedup"))


@pytest.mark.parametrize("name", ["mask", "speedup", "ablation"])
def test_speedups_have_a_line_at_one(name: str) -> None:
    with style():
        axes = profile_report(full()).picture(name).draw(WIDE).axes[-1]
        lines = [line for line in axes.lines if list(line.get_xdata()) == [1, 1]]  # type: ignore[arg-type]
    assert [line.get_color() for line in lines] == [ORANGE]


@pytest.mark.parametrize("name", PROFILE_FIGURES)
def test_a_narrow_figure_names_and_numbers_the_same(name: str) -> None:
    report = profile_report(full())
    wide, narrow = (" ".join(words_of(report, name, width)) for width in (WIDE, NARROW))
    for figure in re.findall(r"\d+\.\d\d×(?: \([^)]*\))?", wide):
        assert figure in narrow
    svg = to_svg(report.picture(name).draw, NARROW)
    assert float(re.findall(r'<svg [^>]*width="([\d.]+)pt"', svg)[0]) == pytest.approx(72 * NARROW)


def test_a_page_shows_narrow_figures_on_narrow_screens() -> None:
    text = to_html(profile_report(full()))
    assert text.count('<div class="wide">') == text.count('<div class="narrow">') == 4
    assert '<span class="speedup">1.39× (1.35–1.43)</span>' in text
    assert "@media (max-width: 640px)" in text


def test_figures_are_written_as_vectors() -> None:
    draw = profile_report(full()).picture("speedup").draw
    svg, pdf = to_svg_file(draw), to_pdf(draw)
    assert svg.startswith(b"<?xml")
    assert "suffix" in "".join(ElementTree.fromstring(svg).itertext())
    assert b"var(" not in svg
    assert pdf.startswith(b"%PDF")
    assert (svg, pdf) == (to_svg_file(draw), to_pdf(draw))


@pytest.mark.parametrize("layers", [1, 12, 13, 200])
def test_masks_of_any_depth(layers: int) -> None:
    made = golden_profile()
    mask = made.mask.model_copy(update={"attention": (0,), "mlp": ()})
    deep = made.model_copy(
        update={"model": made.model.model_copy(update={"layers": layers}), "mask": mask}
    )
    report = profile_report(deep)
    assert f"1 of {2 * layers} sublayers skipped, γ = 6, τ = 0.5512" in words_of(report)
    assert size_of(to_png(report.picture(None).draw))[0] == 1296


# A search


def test_a_studys_figure_shows_every_trial_and_the_best(study: Any) -> None:
    report = study_report(study, 2)
    words = words_of(report)
    assert "Best of 5 trials: 1.250×, in trial 4, 38% skipped" in words
    assert {"trial", "predicted speedup", "best so far", "1×: plain decoding"} <= set(words)
    assert report.title == "Search: the best 2 of 5 trials"
    assert [row[0] for row in report.table.rows] == ["1.2500", "1.1250"]
    assert report.table.columns == ("speed", "skipped", "mask")


def drawn_lines(values: tuple[float, ...]) -> tuple[list[float], int]:
    """The best value at each trial, and the number of dots."""
    trials = [trial(n, value) for n, value in enumerate(values)]
    with style():
        axes = draw_trials(trials, "matchness", WIDE).axes[0]
        line, dots = axes.lines[0], axes.collections[0]
        best = [float(y) for y in line.get_ydata()]  # type: ignore[union-attr]
        return best, len(dots.get_offsets())  # type: ignore[arg-type]


def test_the_best_so_far_never_falls() -> None:
    assert drawn_lines(VALUES) == ([0.5, 0.75, 0.75, 1.25, 1.25], 5)


@pytest.mark.parametrize(
    ("values", "best"), [((0.5,), [0.5]), ((float("-inf"), 0.5), [0.5]), ((float("nan"),), [])]
)
def test_trials_without_a_finite_value_are_left_out(
    values: tuple[float, ...], best: list[float]
) -> None:
    assert drawn_lines(values) == (best, len(best))
    trials = [trial(n, value) for n, value in enumerate(values)]
    assert size_of(to_png(lambda width: draw_trials(trials, "matchness", width)))[0] == 1296


def searched(count: int = 60) -> list[Trial]:
    """Trials whose speedup falls by 20 % with attention 0 and rises by 10 % with MLP 2."""
    random = Random(0)
    trials = []
    for _ in range(count):
        attention = [layer for layer in range(4) if random.random() < 0.5]
        mlp = [layer for layer in range(4) if random.random() < 0.5]
        value = 1.5 * (0.8 if 0 in attention else 1) * (1.1 if 2 in mlp else 1)
        prediction = Prediction(value, (value,), 3, 0.1, 0.5, 0.6, 2.0 + len(mlp))
        trials.append(Trial(SkipMask.of(4, attention, mlp), value, prediction))
    return trials


def test_sensitivity_finds_what_each_sublayer_changes() -> None:
    found = sensitivity(searched())
    assert found.effects[0] == pytest.approx(-0.2, abs=0.01)  # attention of layer 0
    assert found.effects[5] == pytest.approx(0.1, abs=0.01)  # MLP of layer 2
    rest = [each for i, each in enumerate(found.effects) if i not in (0, 5)]
    assert rest == pytest.approx([0.0] * 6, abs=0.01)
    with pytest.raises(SkipoptError, match="4 trials cannot tell 8 sublayers apart"):
        sensitivity(searched(4))


def test_sensitivity_leaves_out_what_was_never_tried_both_ways() -> None:
    trials = [each for each in searched() if 1 not in each.mask.mlp]
    assert sensitivity(trials).effects[3] is None


def test_sensitivity_does_not_take_a_draft_config_for_a_mask() -> None:
    """The config doubles the speed, and is used with attention 1 mostly."""
    int8 = DraftConfig.parse("int8")
    trials = [
        replace(each, value=2 * each.value, draft_config=int8)
        if 1 in each.mask.attention and number % 5
        else each
        for number, each in enumerate(searched(120))
    ]
    assert sensitivity(trials).effects[2] == pytest.approx(0.0, abs=0.02)


def test_figures_of_a_search() -> None:
    names = [each.name for each in study_figures(searched(), "speed")]
    assert names == ["trials", "sensitivity", "pareto"]
    assert [each.name for each in study_figures(searched(4), "speed")] == ["trials", "pareto"]
    bare = [replace(each, prediction=None) for each in searched(4)]
    assert [each.name for each in study_figures(bare, "speed")] == ["trials"]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [
        Operating(1, 1),
        Operating(2, 3),
        Operating(2.5, 2),
        Operating(3, 3),
        Operating(4, 5),
    ]
    assert front(points) == [Operating(1, 1), Operating(2, 3), Operating(4, 5)]
    with style():
        axes = draw_front(points, WIDE, "title").axes[0]
        lines = [line for line in axes.lines if line.get_color() == ORANGE]
        [iso] = lines
        assert list(iso.get_xdata()) == pytest.approx(list(iso.get_ydata()))  # type: ignore[arg-type]


# --- errors


def test_no_name_breaks_a_page_or_a_picture(recwarn: pytest.WarningsRecorder) -> None:
    made = golden_profile()
    model = made.model.model_copy(update={"id": NASTY})
    profile = profile_report(made.model_copy(update={"model": model, "reason": NASTY}))
    page = Page(to_html(profile))
    assert "script" not in [tag for tag, _ in page.tags]
    assert any(NASTY in cell for row in page.rows for cell in row)
    assert size_of(to_png(profile.picture(None).draw))[0] == 1296
    assert not recwarn.list


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]  # as not installed
    report = profile_report(golden_profile())
    with pytest.raises(SkipoptError, match=f"need {module}, which is not installed") as caught:
        to_html(report)
    assert caught.value.hint == "pip install 'skipopt[plots]'"
