"""Machines that are not here, by stand-ins."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import SUBPROCESS, Cli, expect_error

from skipopt.profile import Profile

SEARCH = ("--search-space", "skip", "--trials", 4)


def test_one_core(cli: Cli, tiny: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("machine", "storage.workers"):
        monkeypatch.setattr(f"skipopt.{module}.usable_cores", lambda: 1)
    ended = cli("search", tiny, "--prompts", prompts, *SEARCH, "--workers", 4, "--threads", 8)
    assert ended.code == 0, ended.err
    assert "1 instead of 4 workers: one for each of 1 cores" in ended.err
    assert "1 instead of 8 threads" in ended.err


def test_a_clock_that_jumps(
    cli: Cli, tiny: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = itertools.cycle([1e9, 0.0, 4e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    ended = cli("search", tiny, "--prompts", prompts, *SEARCH, "--timeout", 60)
    assert ended.code == 0, ended.err
    cost = Profile.load("profile.yaml").search
    assert cost is not None
    assert 0 < cost.seconds < 120


def test_links_are_refused_and_there_are_no_locks(
    cli: Cli, tiny: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(1, "A required privilege is not held by the client")

    monkeypatch.setattr("os.symlink", refuse)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    search = ("search", tiny, "--prompts", prompts, *SEARCH)
    ended = cli(*search)
    assert ended.code == 0, ended.err
    assert Profile.load("profile.yaml")
    assert cli(*search, "--resume").code == 0


def test_scripts_of_torch_are_gone(
    cli: Cli, tiny: Path, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AttributeError("torch.jit is not there for Python 3.14")

    for name in ("script", "trace", "freeze"):
        monkeypatch.setattr(f"torch.jit.{name}", refuse)
    ended = cli("run", tiny, "-p", profile, "--prompt", "abc", "--max-new-tokens", 4)
    assert ended.code == 0, ended.err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder closed to everybody")
def test_without_a_home_in_a_folder_that_cannot_be_written(tiny: Path) -> None:
    environment = {key: value for key, value in SUBPROCESS.items() if key != "HOME"}
    commands = (
        ("run", tiny, "--prompt", "abc", "--max-new-tokens", 2, "-q"),
        ("search", tiny, "-q"),
    )
    ended = [
        subprocess.run(
            [sys.executable, "-m", "skipopt", *map(str, command)],
            cwd="/proc", env=environment, capture_output=True, text=True,
        )
        for command in commands
    ]  # fmt: skip
    assert ended[0].returncode == 0, ended[0].stderr
    assert ended[1].returncode == 1
    assert "cannot write 'profile.yaml'" in ended[1].stderr
    assert "another place" in ended[1].stderr


@pytest.mark.slow
def test_another_dtype_is_another_search(cli: Cli, tiny: Path, prompts: Path) -> None:
    search = ("search", tiny, "--prompts", prompts, *SEARCH, "-q")
    assert cli(*search, "--runtime", "eager").code == 0
    changed = cli(*search, "--resume", "--runtime", "eager", "--dtype", "bfloat16")
    expect_error(changed, 1, "its dtype is 'float32', not 'bfloat16'", "--dtype float32")
    changed = cli(*search, "--resume", "--runtime", "captured")
    expect_error(changed, 1, "its runtime is 'eager'", "--runtime eager")
    assert cli(*search, "--resume", "--runtime", "eager").code == 0
