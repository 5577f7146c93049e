"""`python -m skipopt`: the same as the `skipopt` command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import MutableMapping
from typing import NoReturn

SPINS = "2000"  # some 50 microseconds


def run() -> NoReturn:
    """Run the command line of this process."""
    # Without a traceback while modules are imported and while the interpreter ends.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    spin_briefly(os.environ)
    from skipopt.cli.app import main

    sys.exit(main())


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Let torch's threads sleep soon where they wait for each other. Call it before torch loads.

    By default they spin for milliseconds at the end of each operation. Where other processes use
    the cores, the thread that they wait for has none meanwhile: reading a prompt then took up to
    30 times as long, and two to three times as long with `SPINS` (results/busy-neighbor.md).

    Args:
        environment: variables of the process. What is said there of waiting is left as it is.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


if __name__ == "__main__":
    run()
