"""Figures and pages taken apart."""

from __future__ import annotations

import struct
from html.parser import HTMLParser
from xml.etree import ElementTree

from skipopt.reporting.plot_style import WIDE, to_svg
from skipopt.reporting.report import Report

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """The content of a page: tags with attributes, cells of the table, texts of the figure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            continue

    def handle_data(self, data: str) -> None:
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data
        if "text" in self._open:
            self.words.append(data)


def words_of(report: Report, name: str | None = None, width: float = WIDE) -> list[str]:
    """The texts of a figure."""
    root = ElementTree.fromstring(to_svg(report.picture(name).draw, width))
    return ["".join(each.itertext()).strip() for each in root.iter(f"{SVG}text")]


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a PNG."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    width, height = struct.unpack(">II", png[16:24])
    return width, height
