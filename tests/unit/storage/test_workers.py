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

from skipopt.storage.workers import (
    STOP_TIMEOUT,
    bounded_workers,
    threads_per_worker,
    worker_pool,
)

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


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended; nobody may have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("asked", "free", "workers", "note"),
    [
        (4, 10**10, 4, None),
        (128, 10**10, 8, "8 instead of 128 workers: one for each of 8 cores"),
        (128, 2_500_000_000, 3, "memory are free, and each takes 1.0 GB"),
        (8, 0, 1, "1 instead of 8 workers: 0.0 GB of memory"),
        (128, None, 8, "8 cores"),
    ],
)
def test_cores_and_free_memory_bound_the_number_of_workers(
    asked: int,
    free: int | None,
    workers: int,
    note: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skipopt.storage.workers.usable_cores", lambda: 8)
    monkeypatch.setattr("skipopt.storage.workers.free_memory", lambda: free)
    monkeypatch.setattr("skipopt.storage.workers.own_memory", lambda: 10**9)
    notes: list[str] = []
    assert bounded_workers(asked, notes.append) == workers
    assert [note in line for line in notes if note] == ([True] if note else [])


@pytest.mark.parametrize(("threads", "each"), [(8, 2), (9, 2), (4, 1), (1, 1)])
def test_workers_get_equal_shares_of_the_threads(threads: int, each: int) -> None:
    assert threads_per_worker(threads, 4) == each


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@slow
def test_an_interrupt_of_the_parent_stops_the_workers(tmp_path: Path) -> None:
    def interrupt() -> None:
        with worker_pool(1, partial(worker_tasks.work_until_stopped, tmp_path), print):
            os.kill(wait_for_worker(tmp_path), signal.SIGINT)  # a terminal signals both
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert (tmp_path / "ended").exists()


INTERRUPTED = """
import os, signal, sys, time
from functools import partial
from pathlib import Path
from skipopt.interrupts import interrupts_held, stop_signals
from skipopt.storage.workers import worker_pool
from support import worker_tasks

begun, end = Path(sys.argv[1]) / "begun", time.monotonic() + float(sys.argv[2])
with stop_signals():
    try:
        with worker_pool(1, partial(worker_tasks.load_forever, begun.parent), print):
            with interrupts_held():
                os.killpg(0, signal.SIGINT)
                while not begun.exists() and time.monotonic() < end:
                    time.sleep(0.02)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.slow
@slow
def test_an_interrupt_of_the_process_group_spares_a_worker_that_has_just_started(
    tmp_path: Path,
) -> None:
    """The first worker of a process is one that Python starts together with a helper process."""
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path), str(TIMEOUT)],
        cwd=Path(worker_tasks.__file__).parents[1],
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted\n", "")
    assert (tmp_path / "begun").exists()


@pytest.mark.slow
@slow
def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "support.worker_tasks", str(tmp_path)]
    parent = subprocess.Popen(command, cwd=Path(worker_tasks.__file__).parents[1])
    worker = wait_for_worker(tmp_path)
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_running(worker))
