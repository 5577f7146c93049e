"""Standard streams: closed ones, full ones, and pipes that nobody reads."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# C0 without tab and newline, DEL, C1, and marks that change the direction of writing.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class OutputClosed(Exception):
    """Nobody reads stdout any more; what is written to it from now on is dropped."""


def open_missing_streams() -> None:
    """Open the null device in place of each standard stream that was closed by the caller."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = open(os.devnull, mode)  # noqa: SIM115 - it stays open
            setattr(sys, name, null)


@contextmanager
def writing() -> Iterator[None]:
    """Inside, stdout is written to.

    Raises:
        OutputClosed: it is a pipe that nobody reads.
    """
    try:
        yield
    except BrokenPipeError:
        drop(sys.stdout)
        raise OutputClosed from None


def visible(text: str) -> str:
    """The text with � for each control character but tab and newline.

    A terminal would take them for commands, and those that turn the direction of writing would
    show another text.
    """
    return CONTROLS.sub("\ufffd", text)


def print_line(line: str) -> None:
    """Print a line on stderr at once, without control characters.

    It is dropped where stderr cannot be written.
    """
    try:
        print(visible(line), file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)


def flush_output() -> None:
    """Write what is left for stdout, unless nobody reads it.

    Raises:
        OSError: it cannot be written; it is dropped.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)
    except OSError:
        drop(sys.stdout)
        raise


def drop(stream: TextIO) -> None:
    """Write to the null device instead, also what the stream still holds."""
    try:
        file = stream.fileno()
    except (OSError, ValueError):  # a stream of Python without a file
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, file)
    os.close(null)
