"""Tasks for tests of worker processes; as a script, a parent with a worker that does not stop.

Each touches `begun` in a folder once it runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path


def work_until_stopped(folder: Path, stopped: Callable[[], bool]) -> None:
    """Also writes its number of threads and its process id, and touches `ended` at the end."""
    import os

    import torch

    unfinished = folder / "unfinished"
    unfinished.write_text(f"{torch.get_num_threads()} threads, process {os.getpid()}")
    stopped()
    unfinished.rename(folder / "begun")
    while not stopped():
        time.sleep(0.01)
    (folder / "ended").touch()


def ignore_stop(folder: Path, stopped: Callable[[], bool]) -> None:
    import os

    stopped()
    (folder / "begun").write_text(f"process {os.getpid()}")
    time.sleep(600)


def load_forever(folder: Path, stopped: Callable[[], bool]) -> None:
    (folder / "begun").touch()
    time.sleep(600)


def fail(stopped: Callable[[], bool]) -> None:
    from skipopt.errors import OutputError

    raise OutputError("the disk\nis full")


if __name__ == "__main__":
    from skipopt.storage.workers import worker_pool
    from support import worker_tasks

    with worker_pool(1, partial(worker_tasks.ignore_stop, Path(sys.argv[1])), print):
        time.sleep(600)
