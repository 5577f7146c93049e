"""Further processes on this machine that help with a search until they are told to stop.

Each computes with its share of the threads. A helper that dies is told of, and the search goes
on; no helper outlives its parent. Knows nothing of masks or of where trials are kept: what a
helper does is a callable.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from skipopt.errors import SkipoptError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from skipopt.models.target import Target

PATIENCE = 10.0  # seconds for a helper to finish the masks it is scoring
AT_WORK = "at work"  # said by a helper when it asks for the first time whether to stop

Stopped = Callable[[], bool]
Work = Callable[[Stopped], None]


@dataclass(frozen=True, slots=True)
class DistributedConfig:
    """Who works on a search besides this process.

    Attributes:
        workers: processes on this machine, this one included.
        storage: where workers of other machines find the study; None: the journal file.
        study: its name there.
        load: how a helper gets the model; must be picklable, so a function of a module.
    """

    workers: int = 1
    storage: str | None = None
    study: str = "skipopt"
    load: Callable[[], Target] | None = None


def share_of(threads: int, workers: int) -> int:
    """Threads that each of the workers computes with."""
    return max(1, threads // workers)


@contextmanager
def worker_pool(count: int, work: Work, tell: Callable[[str], None]) -> Iterator[WorkerPool]:
    """`count` processes do `work` meanwhile; this one computes with its share of the threads.

    Args:
        work: called in each helper with a callable that says when to stop. Must be picklable.
        tell: called with a line about each helper that died.
    """
    import torch

    threads = torch.get_num_threads()
    share = share_of(threads, count + 1)
    crew = WorkerPool(tell)
    try:
        for _ in range(count):
            crew.hire(work, share)
        if count:
            torch.set_num_threads(share)
        yield crew
    finally:
        torch.set_num_threads(threads)
        crew.dismiss()


class _Helper:
    """One process, with the line on which it is told to stop and says why it failed."""

    def __init__(self, process: SpawnProcess, line: Connection, name: str) -> None:
        self.process = process
        self.name = name
        self._line = line
        self._said: list[str] = []

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def at_work(self) -> bool:
        """False while it still loads what it works with."""
        return AT_WORK in self._listen()

    def stop(self) -> None:
        _send(self._line, "stop")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def cause(self) -> str:
        """Why it ended: what it said last, or by which signal or with which status."""
        said = [line for line in self._listen() if line != AT_WORK]
        code = self.process.exitcode or 0
        return said[-1] if said else f"signal {-code}" if code < 0 else f"exit status {code}"

    def _listen(self) -> list[str]:
        with suppress(EOFError, OSError):
            while self._line.poll():
                self._said.append(" ".join(str(self._line.recv()).split()))
        return self._said


class WorkerPool:
    """The helpers that were started, and those still alive."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._helpers: list[_Helper] = []
        self._hired = 0

    @property
    def pids(self) -> list[int]:
        """Of the helpers that were alive when last looked at."""
        return [h.process.pid for h in self._helpers if h.process.pid is not None]

    def hire(self, work: Work, threads: int) -> None:
        """Start one more."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # The end of its line tells a helper that its parent is gone, however that happened.
        process = context.Process(target=help_out, args=(work, threads, theirs), daemon=True)
        with _deaf_to_interrupts():
            process.start()
        theirs.close()
        self._hired += 1
        self._helpers.append(_Helper(process, ours, f"worker {self._hired + 1}"))

    def is_over(self) -> bool:
        """Never: a search goes on without helpers. Tells of those that have died."""
        self._tell_of_the_dead()
        return False

    def dismiss(self) -> None:
        """Stop all of them; those that do not come to an end by themselves are killed."""
        self._tell_of_the_dead()
        for helper in self._helpers:
            helper.stop()
        self._drop([h for h in self._helpers if not h.at_work])  # nothing is lost with them
        until = time.monotonic() + PATIENCE
        for helper in self._helpers:
            helper.process.join(max(0.0, until - time.monotonic()))
        self._tell_of_the_dead()
        for helper in self._helpers:
            self._tell(f"{helper.name} did not stop and was ended; its masks are free again")
        self._drop(list(self._helpers))

    def _drop(self, worker_pool: list[_Helper]) -> None:
        for helper in worker_pool:
            helper.kill()
            self._helpers.remove(helper)

    def _tell_of_the_dead(self) -> None:
        for helper in [h for h in self._helpers if h.ended]:
            self._helpers.remove(helper)
            if helper.process.exitcode:
                self._tell(f"{helper.name} died ({helper.cause()}); the search goes on without")


def help_out(work: Work, threads: int, line: Connection) -> None:
    """What a helper process does; it says nothing but, on its line, why it failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    try:
        import torch

        torch.set_num_threads(threads)
        work(_Ear(line))
    except Exception as error:
        known = isinstance(error, SkipoptError)
        _send(line, str(error) if known else f"{type(error).__name__}: {error}")
        sys.exit(1)


class _Ear:
    """Whether a helper is to stop: it was told to, or its parent is gone."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._asked = False

    def __call__(self) -> bool:
        if not self._asked:
            self._asked = True
            _send(self._line, AT_WORK)
        return self._line.poll()  # at the line's end, too, there is something to read


def _send(line: Connection, message: str) -> None:
    with suppress(OSError):  # the other side is gone
        line.send(message)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process started meanwhile ignores Ctrl-C from its first moment."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so; the helper says it itself a little later
        return
    before: Any = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
