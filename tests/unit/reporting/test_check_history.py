"""A history of checks: appended whole, read back, and drawn."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.check_results import check_result

from skipopt.cli.show import choose_view, read_start, view_history
from skipopt.errors import SkipoptError
from skipopt.reporting.check_history import append_check, read_history
from skipopt.reporting.history_view import draw_history
from skipopt.reporting.plot_style import style
from skipopt.stats import Interval

UNMEASURED = check_result("inconclusive", end_to_end=None, speedup=None, first_text=None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "history.jsonl"
    append_check(path, check_result(), "p.yaml", "abc")
    append_check(path, UNMEASURED, "p.yaml")
    append_check(path, check_result("fail"), "other.yaml", "def")
    return path


def test_a_history_is_read_as_it_was_written(file: Path) -> None:
    found = read_history(file)
    assert [each.verdict for each in found.checks] == ["pass", "inconclusive", "fail"]
    assert [each.speedup for each in found.checks] == [
        Interval(1.4, 1.3, 1.5),
        None,
        Interval(1.4, 1.3, 1.5),
    ]
    assert (found.checks[0].commit, found.checks[0].floor, found.damaged) == ("abc", 1.1, 0)


def test_a_line_cut_short_is_left_out_and_harms_no_other(file: Path) -> None:
    file.write_text(file.read_text() + '{"skipopt_check_history": 1, "time": "20')
    append_check(file, check_result(), "p.yaml")
    found = read_history(file)
    assert (len(found.checks), found.damaged) == (4, 1)


def test_checks_that_end_at_the_same_time_all_stay(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    long = check_result(environment={"device": "d" * 20_000})
    threads = [
        threading.Thread(target=append_check, args=(path, long, f"{number}.yaml"))
        for number in range(16)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = read_history(path)
    assert {each.profile for each in found.checks} == {f"{number}.yaml" for number in range(16)}
    assert found.damaged == 0


def test_show_recognizes_a_history(file: Path) -> None:
    assert choose_view(read_start(file)) is view_history
    view = view_history(str(file), 10)
    assert [row["verdict"] for row in view.document["checks"]] == ["pass", "inconclusive", "fail"]
    assert view.report.table.rows[0][2:6] == ("1.40×", "1.30×", "1.50×", "1.10×")


@pytest.mark.usefixtures("plots")
def test_each_profile_has_axes_of_its_own_with_every_measured_check(file: Path) -> None:
    with style():
        figure = draw_history(read_history(file), 9.0)
    drawn = [
        [line.get_gid() for line in axes.get_lines() if line.get_gid()] for axes in figure.axes
    ]
    assert drawn == [["check-0"], ["check-0"]]


def test_another_file_is_no_history(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("{}\n")
    with pytest.raises(SkipoptError, match="no check"):
        read_history(path)
