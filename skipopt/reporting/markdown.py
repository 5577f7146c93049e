"""Tables in GitHub Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from skipopt.reporting.report import TableData


def markdown_lines(table: TableData) -> list[str]:
    """The lines of a table, without its caption; figures are aligned right."""
    words = table.text_columns
    alignments = ["---" if n in words else "--:" for n in range(len(table.columns))]
    return [_line(table.columns), _line(alignments), *map(_line, table.rows)]


def markdown_section(title: str, table: TableData | None) -> list[str]:
    """The lines of a table between its title and its caption; none without a table."""
    if table is None:
        return []
    caption = [table.caption, ""] if table.caption else []
    return [f"**{title}**", "", *markdown_lines(table), "", *caption]


def _line(cells: Sequence[str]) -> str:
    """One row, with `|` in cells escaped."""
    shown = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(shown) + " |"
