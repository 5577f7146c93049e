"""Helper processes: they stop when told to or left alone, and their deaths are told of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from support import helping

from skipopt.storage import workers
from skipopt.storage.workers import share_of, worker_pool

pytestmark = pytest.mark.slow  # each helper imports torch
PATIENCE = 60.0


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(("threads", "each"), [(8, 2), (9, 2), (4, 1), (1, 1)])
def test_threads_are_shared_out(threads: int, each: int) -> None:
    assert share_of(threads, 4) == each


def test_helpers_work_with_their_share_until_told_to_stop(tmp_path: Path) -> None:
    told: list[str] = []
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with worker_pool(1, partial(helping.work_until_stopped, tmp_path), told.append) as crew:
            until(lambda: (tmp_path / "begun").exists())
            assert torch.get_num_threads() == 2
            assert not crew.is_over()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "begun").read_text() == "2 threads"
    assert (tmp_path / "ended").exists()
    assert told == []


def test_deaths_are_told_of_once_and_why(tmp_path: Path) -> None:
    told: list[str] = []
    with worker_pool(1, helping.fail, told.append) as crew:
        until(lambda: crew.is_over() or bool(told))
    assert told == ["worker 2 died (the disk is full); the search goes on without"]
    told.clear()
    with worker_pool(1, partial(helping.work_until_stopped, tmp_path), told.append) as crew:
        os.kill(crew.pids[0], signal.SIGKILL)
        until(lambda: crew.is_over() or bool(told))
        assert not crew.is_over()
    assert told == ["worker 2 died (signal 9); the search goes on without"]


def test_a_helper_that_does_not_stop_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    told: list[str] = []
    with worker_pool(1, partial(helping.ignore_everything, tmp_path), told.append) as crew:
        until(lambda: (tmp_path / "begun").exists())
        pid = crew.pids[0]
    assert "did not stop" in told[0]
    assert len(told) == 1
    assert not Path(f"/proc/{pid}").exists()


def test_a_helper_that_is_still_loading_is_not_waited_for(tmp_path: Path) -> None:
    told: list[str] = []
    with worker_pool(1, partial(helping.load_for_ever, tmp_path), told.append):
        until(lambda: (tmp_path / "begun").exists())
        began = time.monotonic()
    assert time.monotonic() - began < workers.PATIENCE
    assert told == []


def test_helpers_are_stopped_by_an_interrupt_of_the_parent(tmp_path: Path) -> None:
    work = partial(helping.work_until_stopped, tmp_path)

    def interrupted() -> None:
        with worker_pool(1, work, print) as crew:
            until(lambda: (tmp_path / "begun").exists())
            os.kill(crew.pids[0], signal.SIGINT)  # as a terminal sends it to both
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "ended").exists()


def test_no_helper_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = Path(helping.__file__)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    until(lambda: (tmp_path / "begun").exists())
    parent.kill()
    parent.wait()
    until(lambda: (tmp_path / "ended").exists())
