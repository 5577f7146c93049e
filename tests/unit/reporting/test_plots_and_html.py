"""Figures and HTML pages: their content, and that pages are self-contained."""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from skipopt.reporting.plots import draw_trials

from skipopt.errors import SkipoptError
from skipopt.masks import SkipMask
from skipopt.measurement.lossless import LosslessReport
from skipopt.measurement.methods_table import BenchResult, MethodResult
from skipopt.measurement.workload import Workload
from skipopt.profile import Profile
from skipopt.reporting.html import to_html
from skipopt.reporting.plot_style import DARK, LIGHT, style, to_png, to_svg
from skipopt.reporting.profiles import profile_report
from skipopt.reporting.report import Report
from skipopt.reporting.studies import load_study, study_report
from skipopt.reporting.tables import bench_report, markdown_table
from skipopt.stats import Interval
from skipopt.storage.base import Trial
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyIdentity, StudyLocation
from skipopt.storage.workers import DEFAULT_STUDY

GOLDEN = (Path(__file__).parents[2] / "golden" / "profile.yaml").read_text(encoding="utf-8")
CONTEXTS = """\
contexts:
- {min_context: 512, mask: {attention: [0], mlp: [15]}, drafting: {gamma: 4, tau: 0.25}}
- {min_context: 2048, mask: {attention: [], mlp: []}, drafting: {gamma: 2, tau: 0.5}}
predicted:
"""
SVG = "{http://www.w3.org/2000/svg}"
NASTY = "a<b>&\"'--></svg><script>alert(1)</script>$x_1$ 日本"


class Page(HTMLParser):
    """The content of a page: tags with attributes, cells of the table, texts of the figure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            continue

    def handle_data(self, data: str) -> None:
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data
        if "text" in self._open:
            self.words.append(data)


def golden_profile() -> Profile:
    return Profile.parse(GOLDEN, "p.yaml")


def method(name: str, median: float | None, **more: Any) -> MethodResult:
    speedup = None if median is None else Interval(median, median - 0.1, median + 0.1)
    return MethodResult(name, more.pop("settings", {}), speedup=speedup, **more)


EXACT, WRONG = LosslessReport(4, 0, 0), LosslessReport(3, 0, 1, 0.5)
METHODS = (
    method("plain", 1.0, lossless=EXACT, guarantee="same tokens"),
    method("slow", 0.5, lossless=EXACT, guarantee="same tokens"),
    method("layer-skip", 1.75, settings={"mask": "attn 1", "gamma": 4}, lossless=EXACT),
    method("relaxed", 2.25, lossless=WRONG, guarantee="none"),
    method("broken", None, error="UsageError: it has no heads"),
)


def bench_result(methods: tuple[MethodResult, ...] = METHODS) -> BenchResult:
    return BenchResult(
        environment={"device": "Some CPU", "dtype": "float32", "threads": 2},
        model={"id": "builtin"},
        prompts_hash="sha256:00",
        workload=Workload(((), ()), ((), ()), 2, 0, 0),
        max_new_tokens=40,
        repeats=2,
        methods=methods,
    )


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


@pytest.fixture(params=["profile", "contexts", "study", "bench"])
def report(request: pytest.FixtureRequest, study: Any) -> Report:
    by_length = Profile.parse(GOLDEN.replace("predicted:\n", CONTEXTS), "p.yaml")
    made: dict[str, Report] = {
        "profile": profile_report(golden_profile()),
        "contexts": profile_report(by_length),
        "study": study_report(study, 3),
        "bench": bench_report(bench_result()),
    }
    return made[request.param]


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a PNG."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def words_of(report: Report) -> list[str]:
    """The texts of a figure."""
    root = ElementTree.fromstring(to_svg(report.draw))
    return ["".join(each.itertext()).strip() for each in root.iter(f"{SVG}text")]


def fills(report: Report) -> list[str]:
    return re.findall(r"fill: (var\(--\w+\)|url)", to_svg(report.draw))


# All of them


def test_a_picture_is_a_png_of_readable_size(report: Report) -> None:
    png = to_png(report.draw)
    width, height = size_of(png)
    assert width == 1296
    assert 300 < height < 1600
    assert png.endswith(b"IEND\xaeB`\x82")


def test_a_page_is_self_contained_with_light_and_dark_colors(report: Report) -> None:
    text = to_html(report)
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert names[0] == "html"
    assert names.count("svg") == names.count("table") == names.count("h1") == 1
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
    assert to_png(report.draw) == to_png(report.draw)


def test_drawing_leaves_matplotlibs_settings_alone(report: Report) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    to_png(report.draw)
    assert dict(matplotlib.rcParams) == before


def test_a_users_own_style_changes_nothing() -> None:
    import matplotlib

    report = profile_report(golden_profile())
    expected = to_png(report.draw)
    with matplotlib.rc_context({"font.size": 40, "savefig.dpi": 20, "savefig.bbox": "tight"}):
        assert to_png(report.draw) == expected


# A profile


def test_a_profiles_figure_shows_mask_and_speedup() -> None:
    report = profile_report(golden_profile())
    words = words_of(report)
    assert "6 of 32 sublayers skipped, γ = 6, τ = 0.5512" in words
    assert {"attention", "MLP", "measured", "predicted"} <= set(words)
    assert "1.39× (1.35–1.43)" in words
    assert "1.41×" in words
    cells = fills(report)
    assert cells.count("var(--blue)") == 6
    assert cells.count("var(--faint)") == 26


def test_a_profile_by_length_has_a_grid_each() -> None:
    report = profile_report(Profile.parse(GOLDEN.replace("predicted:\n", CONTEXTS), "p.yaml"))
    words = words_of(report)
    assert "below 512 tokens: 6 of 32 sublayers skipped, γ = 6, τ = 0.5512" in words
    assert "from 512 tokens on: 2 of 32 sublayers skipped, γ = 4, τ = 0.25" in words
    assert "from 2048 tokens on: 0 of 32 sublayers skipped, γ = 2, τ = 0.5" in words
    assert words.count("attention") == 3
    assert fills(report).count("var(--blue)") == 6 + 2
    assert any(label == "from 512" for label, _ in report.table.rows)


def test_every_mask_that_ran_is_in_the_table() -> None:
    later = [{"min_context": 512, "mask": "attn 1-2", "gamma": 2, "tau": 0.5}]
    settings = {"mask": "attn 1", "gamma": 4, "tau": 0.0, "contexts": later}
    table = markdown_table(bench_result((method("layer-skip", 1.5, settings=settings),)))
    assert "layer-skip (gamma 4, tau 0.0; from 512 tokens on: gamma 2, tau 0.5)" in table
    assert "Mask: attn 1; from 512 tokens on: attn 1-2." in table


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


@pytest.mark.parametrize("layers", [1, 12, 13, 200])
def test_masks_of_any_depth(layers: int) -> None:
    made = golden_profile()
    mask = made.mask.model_copy(update={"attention": (0,), "mlp": ()})
    deep = made.model_copy(
        update={"model": made.model.model_copy(update={"layers": layers}), "mask": mask}
    )
    report = profile_report(deep)
    assert f"1 of {2 * layers} sublayers skipped, γ = 6, τ = 0.5512" in words_of(report)
    assert size_of(to_png(report.draw))[0] == 1296


# A search


def test_a_studys_figure_shows_every_trial_and_the_best(study: Any) -> None:
    report = study_report(study, 2)
    words = words_of(report)
    assert "Best of 5 trials: 1.250, in trial 4, 38% skipped" in words
    assert {"trial", "predicted speedup", "best so far"} <= set(words)
    assert report.title == "Search: the best 2 of 5 trials"
    assert [row[0] for row in report.table.rows] == ["1.2500", "1.1250"]
    assert report.table.columns == ("speed", "skipped", "mask")


def drawn_lines(values: tuple[float, ...]) -> tuple[list[float], int]:
    """The best value at each trial, and the number of dots."""
    trials = [trial(n, value) for n, value in enumerate(values)]
    with style():
        axes = draw_trials(trials, "matchness").axes[0]
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
    assert size_of(to_png(lambda: draw_trials(trials, "matchness")))[0] == 1296


# A bench result


def test_a_bench_figure_has_sorted_labeled_bars() -> None:
    report = bench_report(bench_result())
    words = words_of(report)
    order = ["relaxed", "layer-skip (gamma 4)", "plain", "slow"]
    assert [word for word in words if word in order] == order
    figures = [word for word in words if "×" in word and "(" in word]
    assert figures == [
        "2.25× (2.15–2.35)", "1.75× (1.65–1.85)", "1.00× (0.90–1.10)", "0.50× (0.40–0.60)",
    ]  # fmt: skip
    assert "no bar: broken: UsageError: it has no heads" in words
    assert "Speedup, greedy: builtin on Some CPU, float32, 2 threads" in words


@pytest.mark.parametrize(
    ("changes", "hatched"),
    [
        ({"guarantee": "none"}, True),
        ({"lossless": WRONG}, True),
        ({"lossless": EXACT}, False),
        ({"guarantee": "same distribution", "lossless": None}, False),
        ({"lossless": LosslessReport(3, 1, 0, 1e-5)}, False),
    ],
)
def test_only_texts_that_differ_are_hatched(changes: dict[str, Any], hatched: bool) -> None:
    row = replace(METHODS[2], **changes)
    report = bench_report(bench_result((METHODS[0], row)))
    assert ("hatched: the text differs from the model's" in words_of(report)) == hatched
    assert ("<pattern" in to_svg(report.draw)) == hatched


def test_a_bench_where_all_failed_is_still_a_picture() -> None:
    report = bench_report(bench_result((method("broken", None, error="no"),)))
    assert "no bar: broken: no" in words_of(report)


# --- errors


def test_no_name_breaks_a_page_or_a_picture(recwarn: pytest.WarningsRecorder) -> None:
    made = golden_profile()
    model = made.model.model_copy(update={"id": NASTY})
    profile = profile_report(made.model_copy(update={"model": model, "reason": NASTY}))
    bench = bench_report(bench_result((method(NASTY, 1.5), method("b", None, error=NASTY))))
    for report in (profile, bench):
        page = Page(to_html(report))
        assert "script" not in [tag for tag, _ in page.tags]
        assert any(NASTY in cell for row in page.rows for cell in row)
        assert size_of(to_png(report.draw))[0] == 1296
    assert not recwarn.list


def test_long_names_leave_room_for_the_figure() -> None:
    long = "spec-drafter:checkpoint=/home/" + "x" * 200 + "/tokens.safetensors"
    words = words_of(bench_report(bench_result((method(long, 1.5),))))
    shown = next(word for word in words if word.startswith("spec-drafter"))
    assert len(shown) < 50
    assert shown.endswith("tokens.safetensors")


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]  # as not installed
    report = profile_report(golden_profile())
    with pytest.raises(SkipoptError, match=f"need {module}, which is not installed") as caught:
        to_html(report)
    assert caught.value.hint == "pip install 'skipopt[plots]'"
