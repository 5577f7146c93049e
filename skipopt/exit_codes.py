"""Exit statuses of the command line, as docs/how-to/ci.md lists them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a `skipopt` process ends with."""

    OK = 0
    ERROR = 1
    USAGE = 2
    SPEED_REGRESSED = 3
    INCONCLUSIVE = 4
    NOT_LOSSLESS = 5
    HUNG_UP = 129  # 128 + SIGHUP
    INTERRUPTED = 130  # 128 + SIGINT
    TERMINATED = 143  # 128 + SIGTERM

    @property
    def meaning(self) -> str:
        """In the words of `skipopt --help`."""
        return "done" if self is ExitCode.OK else self.name.lower().replace("_", " ")
