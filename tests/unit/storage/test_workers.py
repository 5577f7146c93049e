"""Worker processes stop on request or when their parent dies, and their deaths are reported."""

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
from support import worker_tasks

from skipopt.storage.workers import STOP_TIMEOUT, threads_per_worker, worker_pool

slow = pytest.mark.slow  # each worker imports torch
TIMEOUT = 60.0


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_for_worker(folder: Path) -> int:
    """Wait until the worker runs, and return its process id."""
    wait_until((folder / "begun").exists)
    return int((folder / "begun").read_text().split("process ")[-1])


@pytest.mark.parametrize(("threads", "each"), [(8, 2), (9, 2), (4, 1), (1, 1)])
def test_workers_get_equal_shares_of_the_threads(threads: int, each: int) -> None:
    assert threads_per_worker(threads, 4) == each


@slow
def test_workers_run_with_their_share_of_threads_until_the_block_ends(tmp_path: Path) -> None:
    notes: list[str] = []
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        task = partial(worker_tasks.work_until_stopped, tmp_path)
        with worker_pool(1, task, notes.append) as pool:
            wait_for_worker(tmp_path)
            assert torch.get_num_threads() == 2
            pool.report_exits()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "begun").read_text().startswith("2 threads")
    assert (tmp_path / "ended").exists()
    assert notes == []


@slow
def test_a_worker_that_fails_or_is_killed_is_reported_once(tmp_path: Path) -> None:
    notes: list[str] = []

    def reported() -> bool:
        pool.report_exits()
        return bool(notes)

    with worker_pool(1, worker_tasks.fail, notes.append) as pool:
        wait_until(reported)
    assert notes == ["worker 2 died (the disk is full); the search goes on"]
    notes.clear()
    with worker_pool(1, partial(worker_tasks.work_until_stopped, tmp_path), notes.append) as pool:
        os.kill(wait_for_worker(tmp_path), signal.SIGKILL)
        wait_until(reported)
        pool.report_exits()
    assert notes == ["worker 2 died (signal 9); the search goes on"]


@slow
def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    notes: list[str] = []
    task = partial(worker_tasks.ignore_stop, tmp_path)
    with worker_pool(1, task, notes.append, stop_timeout=0.2):
        pid = wait_for_worker(tmp_path)
    assert notes == ["worker 2 did not stop and was killed"]
    assert not Path(f"/proc/{pid}").exists()


@slow
def test_a_worker_that_is_still_loading_is_not_waited_for(tmp_path: Path) -> None:
    notes: list[str] = []
    with worker_pool(1, partial(worker_tasks.load_forever, tmp_path), notes.append):
        wait_until((tmp_path / "begun").exists)
        start = time.monotonic()
    assert time.monotonic() - start < STOP_TIMEOUT
    assert notes == []


@slow
def test_an_interrupt_of_the_parent_stops_the_workers(tmp_path: Path) -> None:
    def interrupt() -> None:
        with worker_pool(1, partial(worker_tasks.work_until_stopped, tmp_path), print):
            os.kill(wait_for_worker(tmp_path), signal.SIGINT)  # a terminal signals both
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert (tmp_path / "ended").exists()


@slow
def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "support.worker_tasks", str(tmp_path)]
    parent = subprocess.Popen(command, cwd=Path(worker_tasks.__file__).parents[1])
    wait_for_worker(tmp_path)
    parent.kill()
    parent.wait()
    wait_until((tmp_path / "ended").exists)
