"""Tables on terminals of any width keep every number and name."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from skipopt.reporting.report import TableData
from skipopt.reporting.terminal_table import TerminalTable

COLUMNS = ("method", "tokens/s", "speedup", "end to end", "by length", "accepted", "lossless")
ROWS = (
    ("plain", "129.9", "1.00× (1.00–1.00)", "–", "–", "–", "exact"),
    (
        "layer-skip:gamma=4:quant=int8",
        "184.9",
        "1.46× (1.37–1.52)",
        "1.31× (1.22–1.41)",
        "32: 1.21×, 64: 1.30×",
        "55%",
        "relaxed (3 of 8 texts differ)",
    ),
    ("jacobi", "–", "–", "–", "–", "–", "error: [bold] no such file /a/long/path/to/a/checkpoint"),
)
DATA = TableData(COLUMNS, ROWS, frozenset((0, 6)), "A caption.")


def printed(width: int, data: TableData = DATA) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(TerminalTable(data, "A title"))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def column(lines: list[str], header: str) -> str:
    """All text of a column, of rows that may take several lines, without spaces."""
    found = ""
    for table in "\n".join(lines).split("┏"):
        rows = [line.strip("┃│").replace("┃", "│").split("│") for line in table.splitlines()]
        names = [cell.strip() for cell in rows[1]] if len(rows) > 1 else []
        if header in names:
            at, count = names.index(header), len(names)
            found += "".join(row[at].replace(" ", "") for row in rows[2:] if len(row) == count)
    return found


@pytest.mark.parametrize("width", [52, 60, 40, 20])
def test_a_narrow_terminal_shows_a_block_for_each_row(width: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    found = " ".join(lines).split()
    for row in ROWS:
        for word in " ".join(row).split():
            assert len(word) > width - 2 or word in found
    assert found.count("tokens/s") == len(ROWS)
    if width > 20:
        assert any("1.46× (1.37–1.52)" in line for line in lines)


@pytest.mark.parametrize("width", [64, 70, 80, 97, 120, 140, 300])
def test_no_cell_is_cut(width: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    for number, header in enumerate(COLUMNS):
        found = column(lines, header)
        for row in ROWS:
            assert row[number].replace(" ", "") in found
    text = "\n".join(lines)
    for number in ("(1.37–1.52)", "(1.22–1.41)", "1.21×", "184.9", "55%", ROWS[1][0]):
        assert number in text  # on one line
    assert (text.count("A title"), text.count("A caption.")) == (1, 1)


@pytest.mark.parametrize(("width", "tables"), [(300, 1), (80, 3)])
def test_columns_that_do_not_fit_continue_below(width: int, tables: int) -> None:
    lines = printed(width)
    assert sum("method" in line for line in lines) == tables
    assert sum("plain" in line for line in lines) == tables
