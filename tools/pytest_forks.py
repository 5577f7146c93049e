"""Runs pytest in forks of a process that has imported what takes long.

    python tools/pytest_forks.py [MODULES]

Each line of stdin is a JSON list: a file for the output, and arguments of pytest. The answer is a
line with the exit status, negative for a signal. `OMP_NUM_THREADS=1` must be set: forks of a
process with further threads may hang.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys

import pytest

OPTIONS = ("-p", "no:cacheprovider", "-x")


def run(output: str, *arguments: str) -> int:
    """The exit status of pytest in a fork."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    file = os.open(output, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    os._exit(_status(arguments))


def _status(arguments: tuple[str, ...]) -> int:
    try:
        status = int(pytest.main([*OPTIONS, *arguments]))
        sys.stdout.flush()
    except BaseException:
        return int(pytest.ExitCode.INTERNAL_ERROR)
    return status


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # so that forks do not copy what they never change
    for line in sys.stdin:
        print(run(*json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
