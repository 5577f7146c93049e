"""Progress on stderr: phases, the time left, and no line twice."""

from __future__ import annotations

import io
import sys

import pytest

from skipopt.cli.output import Output, make_console
from skipopt.cli.progress import Display
from skipopt.cli.search_progress import SearchProgress, phase_heading, progress_line
from skipopt.masks import SkipMask
from skipopt.study.progress import Progress
from skipopt.study.time_plan import PHASES


def progress(**changes: object) -> Progress:
    values = {
        "phase": "search",
        "trials": 3,
        "best_value": 1.5,
        "best_mask": SkipMask.of(4, [1]),
        "seconds": 12.0,
        "seconds_left": 30.0,
    }
    return Progress(**{**values, **changes})  # type: ignore[arg-type]


def test_phases_are_counted() -> None:
    assert [phase_heading(phase).split()[0] for phase in PHASES] == ["1/4", "2/4", "3/4", "4/4"]


def test_a_search_without_time_left_is_about_to_end() -> None:
    assert "0 s" not in progress_line(progress(seconds_left=0.0), "speed")
    assert progress_line(progress(), "speed") == "3 trials · best predicted 1.500× · 30 s left"


def test_no_line_is_printed_twice_in_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter(range(0, 1000, 10))
    with Display(Output(), clock=lambda: float(next(times))) as display:
        show = SearchProgress(display, "speed")
        for left in (30.0, 30.0, 20.0, 20.0, 30.0):
            show(progress(seconds_left=left))
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("· ")[2] for line in lines] == ["30 s left", "20 s left", "30 s left"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 60, 20])
def test_notes_are_broken_between_words_on_a_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "suffix: 40 tokens in 1.22 s · acceptance rate 0.35 · decoding 1.39× (1.35–1.43)"
    Output().note(line)
    assert capsys.readouterr().err == f"{line}\n", "one line where there is no terminal"
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    Output().note(line)
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(lines).split() == line.split()
    assert any("1.39× (1.35–1.43)" in each for each in lines)


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("0", 180), ("wide", 180), ("", 180)])
def test_a_pipe_is_as_wide_as_the_variable_says(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert make_console().width == width
