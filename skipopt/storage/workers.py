"""Worker processes on this machine that take part in a search until they are stopped.

Each computes with its share of the threads. If one dies, a note is printed and the search goes
on; none outlives its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from skipopt.errors import SkipoptError
from skipopt.interrupts import end_by_parent_only, interrupts_held, signals_blocked
from skipopt.machine import free_memory, own_memory, usable_cores

if TYPE_CHECKING:
    from skipopt.models.target import Target

DEFAULT_STUDY = "skipopt"
STOP_TIMEOUT = 10.0  # seconds that a worker has to finish the masks it is scoring
READY = "ready"  # sent by a worker that has loaded the model

Stopped = Callable[[], bool]
Task = Callable[[Stopped], None]


@dataclass(frozen=True, slots=True)
class DistributedConfig:
    """Which workers take part in a search besides this process.

    Attributes:
        workers: most processes on this machine, this one included; see `bounded_workers`.
        storage: database URL or journal file that workers of other machines or commands share;
            None: the search's own journal file.
        study: name of the study on that storage.
        load: returns the target in a worker process; must be picklable, so a function of a
            module.
    """

    workers: int = 1
    storage: str | None = None
    study: str = DEFAULT_STUDY
    load: Callable[[], Target] | None = None


def threads_per_worker(threads: int, workers: int) -> int:
    """An equal share of the threads, at least one."""
    return max(1, threads // workers)


def bounded_workers(asked: int, on_note: Callable[[str], None]) -> int:
    """How many of these workers cores and free memory allow; this process always counts.

    A worker is expected to take as much memory as this process, which has loaded the model.

    Args:
        on_note: called with a line if there are fewer than asked for.
    """
    cores = usable_cores()
    workers, why = min(asked, cores), f"one for each of {cores} cores"
    free, each = free_memory(), own_memory()
    if free is not None and each and (fitting := 1 + free // each) < workers:
        workers = fitting
        why = f"{free / 1e9:.1f} GB of memory are free, and each takes {each / 1e9:.1f} GB"
    if workers < asked:
        on_note(f"{workers} instead of {asked} workers: {why}")
    return workers


@contextmanager
def worker_pool(
    count: int,
    task: Task,
    on_note: Callable[[str], None],
    stop_timeout: float = STOP_TIMEOUT,
) -> Iterator[WorkerPool]:
    """Run `task` in `count` processes until the block ends.

    This process computes with its share of the threads meanwhile.

    Args:
        task: called in each worker with a function that returns True when it must stop. Must be
            picklable.
        on_note: called with a line about each worker that died.
        stop_timeout: seconds that workers have to stop before they are killed.
    """
    import torch

    threads = torch.get_num_threads()
    share = threads_per_worker(threads, count + 1)
    pool = WorkerPool(on_note)
    try:
        pool.start(count, task, share)
        if count:
            torch.set_num_threads(share)
        yield pool
    finally:
        torch.set_num_threads(threads)
        pool.stop(stop_timeout)


class WorkerPool:
    """The worker processes that are alive."""

    def __init__(self, on_note: Callable[[str], None]) -> None:
        self._on_note = on_note
        self._workers: list[_Worker] = []

    def start(self, count: int, task: Task, threads: int) -> None:
        """Start processes; the parent counts as worker 1."""
        for n in range(2, count + 2):
            with interrupts_held():  # none is started that `stop` would not find
                self._workers.append(_Worker(f"worker {n}", task, threads))

    def report_exits(self) -> None:
        """Call `on_note` once for each worker that has died."""
        for worker in [w for w in self._workers if w.exitcode is not None]:
            self._workers.remove(worker)
            if worker.exitcode:
                self._on_note(f"{worker.name} died ({worker.cause()}); the search goes on")

    def stop(self, timeout: float) -> None:
        """Stop all workers, and kill those that are alive after `timeout` seconds.

        An interrupt of the waiting kills them at once.
        """
        try:
            self._stop(timeout)
        finally:
            self._kill(list(self._workers))

    def _stop(self, timeout: float) -> None:
        # A service manager sends SIGTERM to the workers too.
        self._kill([w for w in self._workers if w.exitcode == -signal.SIGTERM])
        self.report_exits()
        for worker in self._workers:
            worker.request_stop()
        self._kill([w for w in self._workers if not w.is_ready])  # it has scored nothing yet
        end = time.monotonic() + timeout
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        self.report_exits()
        for worker in self._workers:
            self._on_note(f"{worker.name} did not stop and was killed")

    def _kill(self, workers: list[_Worker]) -> None:
        for worker in workers:
            worker.kill()
            self._workers.remove(worker)


class _Worker:
    """One process, with a pipe to stop it and to hear why it failed."""

    def __init__(self, name: str, task: Task, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(
            target=worker_main, args=(task, threads, child_end), daemon=True
        )
        if os.name == "posix":  # where starting it later would unblock the signals again
            resource_tracker.ensure_running()
        with signals_blocked():
            self._process.start()
        child_end.close()
        self._messages: list[str] = []

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    @property
    def is_ready(self) -> bool:
        """False while it still loads the model."""
        return READY in self._receive()

    def request_stop(self) -> None:
        _send(self._pipe, "stop")

    def join(self, timeout: float) -> None:
        self._process.join(timeout)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def cause(self) -> str:
        """Why it ended: its error message, else the signal or the exit status."""
        errors = [message for message in self._receive() if message != READY]
        code = self.exitcode or 0
        return errors[-1] if errors else f"signal {-code}" if code < 0 else f"exit status {code}"

    def _receive(self) -> list[str]:
        """All messages so far."""
        with suppress(EOFError, OSError):
            while self._pipe.poll():
                self._messages.append(" ".join(str(self._pipe.recv()).split()))
        return self._messages


def worker_main(task: Task, threads: int, pipe: Connection) -> None:
    """Run `task` in a worker process; an error is sent to the parent, nothing is printed.

    The process ends with its parent, even while it loads the model.
    """
    end_by_parent_only()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
        try:
            import torch

            torch.set_num_threads(threads)
            task(_StopSignal(pipe))
        except Exception as error:
            expected = isinstance(error, SkipoptError)
            _send(pipe, str(error) if expected else f"{type(error).__name__}: {error}")
            sys.exit(1)


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker process has a parent"
    parent.join()
    os._exit(1)


class _StopSignal:
    """Whether a worker must stop: it was told to, or its parent has ended.

    The first call tells the parent that the model is loaded.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._ready_sent = False

    def __call__(self) -> bool:
        if not self._ready_sent:
            self._ready_sent = True
            _send(self._pipe, READY)
        return self._pipe.poll()  # also True when the parent's end is closed


def _send(pipe: Connection, message: str) -> None:
    with suppress(OSError):  # the other process has ended
        pipe.send(message)
