"""Output of the commands: results go to stdout, everything else to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import typer

from skipopt.cli.streams import OutputClosed, print_line, visible, writing

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPE_WIDTH = 180  # columns where the output is not a terminal, so that tables do not wrap


@dataclass(slots=True)
class Session:
    """The command that is run, for messages about its failure."""

    command: str = "skipopt"
    verbose: bool = False


def remember_command(ctx: typer.Context, verbose: bool) -> bool:
    """Callback of --verbose; it is called for every command."""
    if isinstance(ctx.obj, Session):
        ctx.obj.command, ctx.obj.verbose = ctx.command_path, verbose
    return verbose


@dataclass(frozen=True, slots=True)
class Output:
    """How much a command prints, and in which format."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    no_progress: bool = False

    @property
    def live(self) -> bool:
        """Whether a progress display may be redrawn."""
        return not (self.quiet or self.no_progress) and sys.stderr.isatty()

    def note(self, line: str) -> None:
        """Print one line on stderr, unless --quiet."""
        if not self.quiet:
            print_wrapped(line)

    def progress(self, line: str) -> None:
        """Print one of many lines about work in progress, unless --quiet or --no-progress."""
        if not self.no_progress:
            self.note(line)

    def result(self, document: Mapping[str, Any], *readable: RenderableType) -> None:
        """Print the result: the document with --json, else the readable form.

        Nothing happens where nobody reads it.
        """
        with suppress(OutputClosed), writing():
            if self.json:
                print_json(document)
                return
            console = make_console()
            for each in readable:
                console.print(without_controls(each))


def print_json(document: Mapping[str, Any], indent: int | None = 2) -> None:
    """Print a JSON document, on one line without `indent`; NaN and infinity are errors.

    Characters are escaped where the encoding of stdout lacks one of them.
    """
    import json

    def text(ensure_ascii: bool) -> str:
        return json.dumps(document, ensure_ascii=ensure_ascii, indent=indent, allow_nan=False)

    made = text(ensure_ascii=False)
    try:
        made.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        made = text(ensure_ascii=True)
    print(made, flush=True)


def without_controls(renderable: RenderableType) -> RenderableType:
    """The same without characters that a terminal would take for commands.

    They may come from a profile or from prompts.
    """
    from rich.console import ConsoleOptions
    from rich.segment import Segment

    class WithoutControls:
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
            for text, style, control in console.render(renderable, options):
                yield Segment(text if control else visible(text), style, control)

    return WithoutControls()


def make_console(stderr: bool = False) -> Console:
    """A console; colors only on a terminal, and never with NO_COLOR."""
    from rich.console import Console

    class BrokenPipeConsole(Console):
        """A console that raises where rich would end the process with status 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else pipe_width()
    return BrokenPipeConsole(stderr=stderr, width=width, highlight=False, emoji=False)


def pipe_width() -> int:
    """Columns where the output is no terminal: the variable COLUMNS, else enough for tables."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) else PIPE_WIDTH


def print_wrapped(line: str) -> None:
    """Print a line on stderr; on a terminal it is broken between words, and never elsewhere."""
    if not sys.stderr.isatty():
        print_line(line)
        return
    from skipopt.reporting.lines import wrapped

    for part in wrapped(line, get_terminal_size().columns, indent="  "):
        print_line(part)


def print_error(message: str, hint: str | None = None) -> None:
    """Print `error: …` and, if there is a hint, `hint: …`, each on one line."""
    print_wrapped(f"error: {one_line(message)}")
    if hint:
        print_wrapped(f"hint: {one_line(hint)}")


def one_line(text: str) -> str:
    """The text with every run of white space replaced by one space, without control characters."""
    return visible(" ".join(text.split()))
