"""What a page or a picture shows of a file: tables as plain texts, and a figure yet to be drawn.

Knows nothing of how either is written down.
"""

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
        columns: their names; empty where each row begins with its own.
        rows: of cells; a cell may have several lines.
        words: numbers of the columns that hold words: the others hold figures, and stand right.
        caption: what is to be known of all of it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One file, to be looked at.

    Attributes:
        title: what it is.
        draw: makes the figure; needs matplotlib, and the style that `drawing` sets around it.
        told: the figure in words, for those who do not see it.
        sheet: what the terminal shows, too.
    """

    title: str
    draw: Callable[[], Figure]
    told: str
    sheet: TableData
