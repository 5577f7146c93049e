"""A report as one HTML page that needs nothing beside it. Knows nothing of what it reports."""

from __future__ import annotations

from importlib.resources import files

from skipopt.reporting.masks import KEPT, SKIPPED
from skipopt.reporting.plot_style import DARK, LIGHT, require, to_svg
from skipopt.reporting.report import Report

TEMPLATE = "page.html.j2"


def to_html(report: Report) -> str:
    """The page: figure and table, light or dark as the reader's system is.

    Raises:
        SkipoptError: there is no matplotlib or no Jinja2.
    """
    jinja2 = require("jinja2")
    markup = require("markupsafe").Markup
    text = files("skipopt.reporting").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page: str = environment.from_string(text).render(
        report=report,
        svg=markup(to_svg(report.draw)),
        light=LIGHT,
        dark=DARK,
        is_picture=is_picture,
    )
    return page


def is_picture(cell: str) -> bool:
    """Cells of a mask stand one above the other only where all letters are equally wide."""
    return SKIPPED in cell or KEPT in cell
