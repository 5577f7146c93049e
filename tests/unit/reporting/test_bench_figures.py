"""Figures, pages and tables of a bench result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.figures import Page, size_of, words_of

from skipopt.measurement.lossless import LosslessReport
from skipopt.measurement.methods_table import BenchResult, MethodResult
from skipopt.measurement.workload import Workload
from skipopt.reporting.html import to_html
from skipopt.reporting.plot_style import NARROW, to_png
from skipopt.reporting.tables import bench_report, markdown_table
from skipopt.stats import Interval

pytestmark = pytest.mark.usefixtures("plots")


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


def test_every_mask_that_ran_is_in_the_table() -> None:
    later = [{"min_context": 512, "mask": "attn 1-2", "gamma": 2, "tau": 0.5}]
    settings = {"mask": "attn 1", "gamma": 4, "tau": 0.0, "contexts": later}
    table = markdown_table(bench_result((method("layer-skip", 1.5, settings=settings),)))
    assert "layer-skip (gamma 4, tau 0.0; from 512 tokens on: gamma 2, tau 0.5)" in table
    assert "Mask: attn 1; from 512 tokens on: attn 1-2." in table


def detailed() -> BenchResult:
    """With values for every figure."""
    rows = (
        method("plain", 1.0, mean_acceptance_length=1.0, seconds_by_phase={"decode": 0.01}),
        method(
            "swift",
            1.5,
            mean_acceptance_length=3.0,
            acceptance_by_position=(0.9, 0.5),
            seconds_by_phase={"draft": 0.002, "verify": 0.004},
            speedup_by_category=(("chat", Interval(1.6, 1.5, 1.7)),),
        ),
        method("hf-generate", 0.7),
    )
    work = Workload(((), ()), ((), ()), 2, 0, 0, ("chat", "chat"))
    return replace(bench_result(rows), workload=work)


def test_every_figure_of_a_bench_result_shows_its_values() -> None:
    report = bench_report(detailed())
    names = ["speedup", "category", "pareto", "position", "time"]
    assert [each.name for each in report.pictures] == names
    assert {"chat · swift", "1.60× (1.50–1.70)"} <= set(words_of(report, "category"))
    assert "swift: 1.50×" in words_of(report, "pareto")
    assert {"90%", "50%", "position in the draft"} <= set(words_of(report, "position"))
    assert {"10.0", "2.0", "4.0"} <= {each.strip() for each in words_of(report, "time")}
    bare = bench_report(bench_result())
    assert [each.name for each in bare.pictures] == ["speedup"]


def test_columns_without_values_are_left_out() -> None:
    columns = bench_report(bench_result()).table.columns
    assert columns == ("method", "speedup", "lossless")


def test_a_bench_figure_has_sorted_labeled_bars() -> None:
    report = bench_report(bench_result())
    words = words_of(report)
    order = ["relaxed", "layer-skip (gamma 4)", "plain", "slow"]
    assert [word for word in words if word in order] == order
    figures = [word for word in words if word[:1].isdigit() and "(" in word]
    assert figures == [
        "2.25× (2.15–2.35)", "1.75× (1.65–1.85)", "1.00× (0.90–1.10) ?", "0.50× (0.40–0.60)",
    ]  # fmt: skip
    assert "no row: broken: UsageError: it has no heads" in words
    assert "Speedup, greedy: builtin on Some CPU, float32, 2 threads" in words


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({"guarantee": "none"}, True),
        ({"lossless": WRONG}, True),
        ({"lossless": EXACT}, False),
        ({"guarantee": "same distribution", "lossless": None}, False),
        ({"lossless": LosslessReport(3, 1, 0, 1e-5)}, False),
    ],
)
def test_only_texts_that_differ_are_marked(changes: dict[str, Any], marked: bool) -> None:
    row = replace(METHODS[2], **changes)
    report = bench_report(bench_result((METHODS[0], row)))
    assert ("crosses: the text differs" in " ".join(words_of(report))) == marked


def test_a_bench_where_all_failed_is_still_a_picture() -> None:
    report = bench_report(bench_result((method("broken", None, error="no"),)))
    assert "no row: broken: no" in words_of(report)


def test_long_names_leave_room_for_the_figure() -> None:
    long = "spec-drafter:checkpoint=/home/" + "x" * 200 + "/tokens.safetensors"
    words = words_of(bench_report(bench_result((method(long, 1.5),))))
    shown = next(word for word in words if word.startswith("spec-drafter"))
    assert len(shown) < 50
    assert shown.endswith("tokens.safetensors")


def test_a_narrow_figure_cuts_no_name_of_a_method() -> None:
    name = "spec-drafter:checkpoint=whole:fused=yes"
    report = bench_report(bench_result((method(name, 1.5), METHODS[0])))
    assert name in words_of(report, "speedup", NARROW)


NASTY = "a<b>&\"'--></svg><script>alert(1)</script>$x_1$ 日本"


def test_no_name_breaks_a_page_or_a_picture(recwarn: pytest.WarningsRecorder) -> None:
    report = bench_report(bench_result((method(NASTY, 1.5), method("b", None, error=NASTY))))
    page = Page(to_html(report))
    assert "script" not in [tag for tag, _ in page.tags]
    assert any(NASTY in cell for row in page.rows for cell in row)
    assert size_of(to_png(report.picture(None).draw))[0] == 1296
    assert not recwarn.list


def test_a_page_holds_the_table_of_the_terminal() -> None:
    report = bench_report(detailed())
    page = Page(to_html(report))
    assert page.rows == [list(row) for row in (report.table.columns, *report.table.rows)]
