"""Lines with a label, for a terminal of any width: no number and no name is broken where it fits.

Words continue below their own beginning. On a narrow terminal they stand below their label.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

from skipopt.masks import SkipMask
from skipopt.reporting.masks import mask_picture

LABEL_WIDTH = 12  # at least, with the space behind it
LONGEST_LABEL = 16  # that has words beside it
NARROW = 44  # columns below which words stand below their label
INDENT = 2  # of words below their label
NO_BREAK = "\N{NO-BREAK SPACE}"
# What stays on one line: `1.39× (1.35–1.43)`, `γ = 6`, `45.7 MB`, `8: 1.38`.
TOGETHER = re.compile(
    r"(?<=×) (?=\()|(?<=[γτ]) (?==)|(?<==) (?=[\d.-])|(?<=\d:) (?=\d)"
    r"|(?<=\d) (?=(?:[kMGT]?B|ms|s|min|tokens|trials|threads?)\b)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line.

    Attributes:
        label: empty where the line continues the one before.
        mask: drawn in place of words.
        style: of the words, in the terms of rich.
    """

    label: str
    words: str = ""
    mask: SkipMask | None = None
    style: str = ""

    def parts(self, width: int) -> list[str]:
        """What stands beside or below the label, in lines of `width`."""
        if self.mask is not None:
            return mask_picture(self.mask, width).splitlines()
        return wrapped(self.words, width)


@dataclass(frozen=True, slots=True)
class LabeledLines:
    """Lines to print, their labels in bold."""

    lines: tuple[Line, ...]

    def text(self, width: int) -> Text:
        """All lines, none longer than `width`."""
        longest = max(len(line.label) for line in self.lines)
        indent = max(LABEL_WIDTH, min(LONGEST_LABEL, longest) + 1)
        if width < NARROW:
            indent = min(INDENT, width - 1)
        text = Text("\n").join(
            each for line in self.lines for each in _laid_out(line, width, indent)
        )
        text.no_wrap, text.overflow = True, "ignore"
        return text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        if self.lines:
            yield self.text(options.max_width)

    @property
    def plain(self) -> str:
        """The text where nothing is wrapped."""
        return self.text(WIDE).plain

    def __str__(self) -> str:
        return self.plain


WIDE = 10_000  # columns, where nothing is wrapped


def _laid_out(line: Line, width: int, indent: int) -> Iterator[Text]:
    parts = line.parts(width - indent)
    if len(line.label) >= indent:
        if line.label:
            yield from (Text(each, "bold") for each in wrapped(line.label, width))
        yield from (Text(" " * indent).append(each, line.style) for each in parts)
        return
    for number, each in enumerate(parts or [""]):
        label = line.label if number == 0 else ""
        text = Text(f"{label:<{indent}}", "bold" if label else "")
        text.append(each, line.style)
        text.rstrip()
        yield text


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """The text in lines of `width`; only what is longer by itself is broken.

    Args:
        indent: before each line but the first of every paragraph.
    """
    found: list[str] = []
    for paragraph in text.split("\n"):
        kept = TOGETHER.sub(NO_BREAK, paragraph)
        if any(len(word) > width for word in kept.split(" ")):  # better broken at its space
            kept = paragraph
        found += textwrap.wrap(
            kept,
            max(1, width),
            subsequent_indent=indent if len(indent) < width else "",
            break_on_hyphens=False,
            expand_tabs=False,
            replace_whitespace=False,
        ) or [""]
    return [line.replace(NO_BREAK, " ") for line in found]


def labeled(pairs: Iterable[tuple[str, str]]) -> LabeledLines:
    """(label, words) of each line."""
    return LabeledLines(tuple(Line(label, words) for label, words in pairs))
