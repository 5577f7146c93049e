"""What helpers do in tests of helper processes; as a script, a parent with one of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path


def work_until_stopped(folder: Path, stopped: Callable[[], bool]) -> None:
    import torch

    partly = folder / "partly"
    partly.write_text(f"{torch.get_num_threads()} threads")
    partly.rename(folder / "begun")
    while not stopped():
        time.sleep(0.01)
    (folder / "ended").touch()


def ignore_everything(folder: Path, stopped: Callable[[], bool]) -> None:
    stopped()
    (folder / "begun").touch()
    time.sleep(600)


def load_for_ever(folder: Path, stopped: Callable[[], bool]) -> None:
    (folder / "begun").touch()
    time.sleep(600)


def fail(stopped: Callable[[], bool]) -> None:
    from skipopt.errors import OutputError

    raise OutputError("the disk\nis full")


if __name__ == "__main__":
    from skipopt.storage.workers import worker_pool
    from support import helping

    with worker_pool(1, partial(helping.work_until_stopped, Path(sys.argv[1])), print):
        time.sleep(600)
