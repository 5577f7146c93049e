"""What a page or an image shows of a file: a table of plain text, and a figure to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class TableData:
    """A table.

    Attributes:
        columns: their names; empty where the first cell of a row is its name.
        rows: cells; a cell may have several lines.
        text_columns: indices of columns that hold words; the others hold figures and are
            aligned right.
        caption: the text below the table.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One file to look at.

    Attributes:
        title: the headline.
        draw: makes the figure; needs matplotlib, and is called under `plot_style.style`.
        alt_text: the figure in words.
        table: the same figures as the terminal shows.
    """

    title: str
    draw: Callable[[], Figure]
    alt_text: str
    table: TableData
