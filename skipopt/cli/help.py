"""`--help`: options under the heading of their topic, in the width of the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

WIDEST = 100  # columns that are read easily
NARROW = 60  # columns below which a description stands below its option
INDENT = "  "
ARGUMENTS, OWN = "Arguments", "Options"


def help_width() -> int:
    """Columns of a help page."""
    return max(10, min(WIDEST, get_terminal_size().columns) - 1)


class PanelCommand(typer.core.TyperCommand):
    """A command whose help has a panel for each topic.

    Attributes:
        panels: headings by the name of a parameter, in the order of the panels; what has none
            stands under `OWN`, which comes first.
    """

    panels: Mapping[str, str] = {}

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        formatter.width = help_width()
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        found: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OWN: []}
        found |= {heading: [] for heading in self.panels.values()}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                found[self._panel(parameter)].append(record)
        for heading, records in found.items():
            if records:
                write_panel(formatter, heading, records)

    def _panel(self, parameter: Any) -> str:
        if parameter.param_type_name == "argument":
            return ARGUMENTS
        return self.panels.get(parameter.name, OWN)


class WholeSummaries(typer.core.TyperGroup):
    """A group whose help tells the first sentence of each command, however long."""

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        formatter.width = help_width()
        super().format_help(ctx, formatter)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, first_sentence(command.help or "")))
        write_panel(formatter, "Commands", rows)


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    return " ".join(text.partition("\n\n")[0].split())


def write_panel(formatter: HelpFormatter, heading: str, records: list[tuple[str, str]]) -> None:
    """A heading, and what stands under it; where it is narrow, descriptions below their names."""
    if formatter.width >= NARROW:
        with formatter.section(heading):
            formatter.write_dl(records)
        return
    lines = [line for record in records for line in _stacked(*record, formatter.width)]
    formatter.write("\n" + "\n".join([f"{heading}:", *lines]) + "\n")


def _stacked(name: str, text: str, width: int) -> Iterator[str]:
    for words, first in ((name, INDENT), (text, 2 * INDENT)):
        yield from textwrap.wrap(
            words,
            width,
            initial_indent=first,
            subsequent_indent=2 * INDENT,
            break_on_hyphens=False,
        )
