"""A command that is told to end saves what it has found, and its hint is true."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command_line import SUBPROCESS, Cli, expect_error

from skipopt.cli.search_progress import SearchProgress
from skipopt.cost_model.costs import Costs
from skipopt.interrupts import STOP_SIGNALS
from skipopt.profile import Profile
from skipopt.reporting.studies import load_study
from skipopt.study.cost_source import MeasuredCosts
from skipopt.study.progress import Progress

TIMEOUT = 120.0
ENDING_SECONDS = 5.0  # that processes of a session have after its leader


def skipping_saves(self: object, target: object, context: object, longest: int, *_: Any) -> Costs:
    """Costs with which most masks pay."""
    verify = tuple(9.0 + 0.1 * n for n in range(longest))
    return Costs(0.1, 1.0, 1.0, 0.1, verify)


Kill = Callable[..., None]


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Kill:
    """A function that lets a search send signals to itself once it has come to a phase."""
    show = SearchProgress.__call__

    def kill(number: int, phase: str, trials: int = 0, times: int = 1) -> None:
        def show_and_kill(self: SearchProgress, progress: Progress) -> None:
            show(self, progress)
            if progress.phase == phase and progress.trials >= trials:
                for _ in range(times):
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(SearchProgress, "__call__", show_and_kill)

    return kill


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("phase", ["calibrate", "costs"])
def test_a_search_that_has_found_nothing_leaves_nothing(
    cli: Cli, tiny: Path, prompts: Path, kill: Kill, number: int, phase: str
) -> None:
    kill(number, phase)
    ended = cli("search", tiny, "--prompts", prompts, "--trials", 4)
    assert ended.code == 128 + number, ended.err
    assert "nothing is saved" in ended.err
    assert "--resume" not in ended.err
    assert os.listdir() == [prompts.name]


@pytest.mark.parametrize(
    ("number", "phase", "times"),
    [
        (signal.SIGTERM, "search", 1),
        (signal.SIGHUP, "validate", 1),
        (signal.SIGINT, "search", 3),
    ],
)
def test_a_search_saves_the_best_so_far_and_its_hint_is_true(
    cli: Cli, tiny: Path, prompts: Path, kill: Kill, number: int, phase: str, times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    search = ("search", tiny, "--prompts", prompts, "--search-space", "skip")
    monkeypatch.setattr(MeasuredCosts, "costs", skipping_saves)  # so that masks are validated
    with monkeypatch.context():
        kill(number, phase, 2, times)
        ended = cli(*search, "--trials", 6)
    assert ended.code == 128 + number, ended.err
    assert "profile.yaml.journal: --resume continues" in ended.err
    assert "Traceback" not in ended.err
    assert Profile.load("profile.yaml").measured is None
    before = [trial.mask for trial in load_study("profile.yaml.journal").trials]
    assert len(before) >= 2

    kill(number, "never")
    again = cli(*search, "--trials", len(before) + 2, "--resume", "-q")
    assert again.code == 0, again.err
    after = [trial.mask for trial in load_study("profile.yaml.journal").trials]
    assert after[: len(before)] == before
    assert len(after) == len(before) + 2


def test_online_tuning_is_saved(cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skipopt.cli import run

    def print_and_kill(text: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run, "print_text", print_and_kill)
    saved = ("--tune-online", "--save-profile", "tuned.yaml")
    ended = cli("run", tiny, "--prompt", "abc", "--max-new-tokens", 64, *saved)
    assert ended.code == 143, ended.err
    assert Profile.load("tuned.yaml").model.id == str(tiny)


@pytest.mark.parametrize("command", ["bench", "check"])
def test_measurements_end_with_the_status_of_the_signal(
    cli: Cli, tiny: Path, profile: Path, prompts: Path, command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from skipopt.cli.progress import Display

    def kill(self: Display, *shown: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(Display, "show", kill)
    ended = cli(command, tiny, "-p", profile, "--prompts", prompts, "--max-new-tokens", 8)
    assert (ended.code, ended.out) == (129, ""), ended.err
    assert "Traceback" not in ended.err


# --- processes


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "skipopt", *map(str, arguments)]
    return subprocess.Popen(
        command, env=SUBPROCESS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + TIMEOUT
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def trials_of(process: subprocess.Popen[str]) -> Callable[[], bool]:
    def are_there() -> bool:
        journal = Path("profile.yaml.journal")
        return journal.exists() and b'"op_code":4' in journal.read_bytes()

    return are_there


def session_ends(leader: int) -> bool:
    """Whether soon no process of its session runs any more: one may be about to end."""
    ends = time.monotonic() + ENDING_SECONDS
    while not session_is_empty(leader):
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True


def session_is_empty(leader: int) -> bool:
    """Whether no process of its session runs any more."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            return False
    return True


@pytest.mark.slow
def test_a_search_with_workers_leaves_no_process(cli: Cli, tiny: Path, prompts: Path) -> None:
    search = ("search", tiny, "--prompts", prompts, "--search-space", "skip", "--workers", 2)
    process = started(*search, "--trials", 100_000)
    wait_until(trials_of(process), process)
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.1)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143, err
    assert session_ends(process.pid)
    assert "Traceback" not in err
    assert "--resume continues" in err
    assert Profile.load("profile.yaml")
    assert load_study("profile.yaml.journal").trials


@pytest.mark.slow
def test_a_second_search_on_the_same_output_is_refused_and_the_first_goes_on(
    cli: Cli, tiny: Path, prompts: Path
) -> None:
    search = ("search", tiny, "--prompts", prompts, "--search-space", "skip")
    process = started(*search, "--trials", 100_000)
    wait_until(trials_of(process), process)
    for more in ((), ("--resume",), ("--overwrite",)):
        expect_error(cli(*search, *more), 1, "another command is writing", "another file")
    process.terminate()
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143, err
    assert load_study("profile.yaml.journal").trials
    assert not [name for name in os.listdir() if name.endswith(".lock")]
