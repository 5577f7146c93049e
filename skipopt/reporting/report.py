"""What a page or an image shows of a file: a table of plain text, and figures to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.errors import SkipoptError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In the order in which they are offered.
PICTURES = {
    "speedup": "speedups with their intervals, and 1×",
    "mask": "skipped sublayers",
    "trials": "values of all trials, and the best so far",
    "sensitivity": "what skipping each sublayer changes",
    "pareto": "tokens per round against the cost of a round",
    "prediction": "predicted against measured speedup",
    "category": "speedup by category of prompts",
    "position": "share of drafts accepted by position",
    "ablation": "what each part of the drafts gains alone",
    "time": "time by phase",
    "history": "speedup of each check over time",
}


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
class Picture:
    """One figure.

    Attributes:
        name: one of `PICTURES`.
        alt_text: the figure in words.
        draw: makes the figure of a width in inches; needs matplotlib, and is called under
            `plot_style.style`.
        on_page: whether a page shows it; not if another one shows the same.
    """

    name: str
    alt_text: str
    draw: Callable[[float], Figure]
    on_page: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """One file to look at.

    Attributes:
        title: the headline.
        pictures: those that the file has values for, the most telling one first.
        table: the same figures as the terminal shows.
    """

    title: str
    pictures: tuple[Picture, ...]
    table: TableData

    def picture(self, name: str | None) -> Picture:
        """The figure of this name; None: the first one.

        Raises:
            UsageError: there is no figure of this name.
            SkipoptError: the file holds nothing for it.
        """
        known = ", ".join(each.name for each in self.pictures)
        if name is not None and name not in PICTURES:
            raise UsageError(f"unknown figure {name!r}", hint=f"one of {', '.join(PICTURES)}")
        found = [each for each in self.pictures if name in (None, each.name)]
        if not found:
            what = PICTURES[name] if name else "any figure"
            raise SkipoptError(
                f"the file holds nothing for {name or 'a figure'} ({what})",
                hint=f"it has {known}" if known else "the terminal and .html show its table",
            )
        return found[0]
