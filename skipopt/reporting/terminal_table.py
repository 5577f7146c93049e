"""A table for a terminal of any width: no cell is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from skipopt.reporting.report import TableData

TEXT_WIDTH = 24  # columns that words need; they are folded where there are no more
BORDER = 3  # columns that each cell needs besides its text


@dataclass(frozen=True, slots=True)
class TerminalTable:
    """A table whose columns continue in a further table below where the terminal is too narrow.

    Each table begins with the first column. Numbers stay on one line; words that are too long are
    folded.

    Attributes:
        data: cells are plain text, without markup; the first column holds words.
        title: above the first table; the caption stands below the last.
        dim: indices of rows in a fainter color.
        show_lines: draw a line between rows.
    """

    data: TableData
    title: str
    dim: frozenset[int] = frozenset()
    show_lines: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        groups = self._groups(options.max_width)
        for number, group in enumerate(groups):
            table = self._table(group)
            table.title = Text(self.title) if number == 0 else None
            if self.data.caption and number == len(groups) - 1:
                table.caption = Text(self.data.caption)
            yield table

    def _groups(self, width: int) -> list[list[int]]:
        """The columns of each table: the first one, and as many others as fit."""
        groups: list[list[int]] = [[0]]
        for column in range(1, len(self.data.columns)):
            needed = sum(BORDER + self._width(each) for each in (*groups[-1], column)) + 1
            if needed > width and len(groups[-1]) > 1:
                groups.append([0])
            groups[-1].append(column)
        return groups

    def _width(self, column: int) -> int:
        """The least width of a column."""
        cells = (self.data.columns[column], *(row[column] for row in self.data.rows))
        longest = max(cell_len(line) for cell in cells for line in cell.split("\n"))
        return min(TEXT_WIDTH, longest) if column in self.data.text_columns else longest

    def _table(self, columns: Sequence[int]) -> Table:
        table = Table(show_lines=self.show_lines)
        for column in columns:
            is_text = column in self.data.text_columns
            table.add_column(
                Text(self.data.columns[column]),
                justify="left" if is_text else "right",
                overflow="fold",
                no_wrap=not is_text and len(columns) > 2,  # alone, a number may need two lines
            )
        for number, row in enumerate(self.data.rows):
            cells = [Text(row[column]) for column in columns]
            table.add_row(*cells, style="dim" if number in self.dim else None)
        return table
