"""`python -m skipopt`: the same as the `skipopt` command."""

from __future__ import annotations

import sys

from skipopt.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
