"""What a command says and where: results on stdout, everything else on stderr.

Knows nothing of what is said.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Tables are not squeezed into 80 columns where no terminal has that width.
PIPE_WIDTH = 140


@dataclass(slots=True)
class Session:
    """What must be known of a command after it failed."""

    command: str = "skipopt"
    verbose: bool = False


def remember(ctx: typer.Context, verbose: bool) -> bool:
    """Callback of --verbose."""
    if isinstance(ctx.obj, Session):
        ctx.obj.command, ctx.obj.verbose = ctx.command_path, verbose
    return verbose


@dataclass(frozen=True, slots=True)
class Output:
    """How a command was asked to speak."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    no_progress: bool = False

    @property
    def live(self) -> bool:
        """Whether progress may be drawn and redrawn."""
        return not (self.quiet or self.no_progress) and sys.stderr.isatty()

    def note(self, line: str) -> None:
        """One line beside the result."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def progress(self, line: str) -> None:
        """One line about work under way, of many."""
        if not self.no_progress:
            self.note(line)

    def result(self, document: Mapping[str, Any], *readable: RenderableType) -> None:
        """The result: the document with --json, else what a person can read."""
        if self.json:
            print_json(document)
            return
        console = make_console()
        for each in readable:
            console.print(each)


def print_json(document: Mapping[str, Any]) -> None:
    import json

    print(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False))


def make_console(stderr: bool = False) -> Console:
    """Colours only on a terminal, and never with NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, emoji=False)


def print_error(message: str, hint: str | None = None) -> None:
    """`error: …`, and `hint: …` where there is one, each on one line."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {one_line(hint)}", file=sys.stderr)


def one_line(text: str) -> str:
    return " ".join(text.split())
