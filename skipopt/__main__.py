"""`python -m skipopt`: the same as the `skipopt` command."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line of this process."""
    # Without a traceback while modules are imported and while the interpreter ends.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from skipopt.cli.app import main

    sys.exit(main())


if __name__ == "__main__":
    run()
