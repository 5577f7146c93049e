"""A report as one self-contained HTML page."""

from __future__ import annotations

import re
from importlib.resources import files

from skipopt.reporting.masks import KEPT, SKIPPED
from skipopt.reporting.plot_style import DARK, LIGHT, NARROW, WIDE, require, to_svg
from skipopt.reporting.report import Report

TEMPLATE = "page.html.j2"


def to_html(report: Report) -> str:
    """The page with figures and table; light or dark by the reader's setting.

    Each figure is there twice, for wide and for narrow screens; one of the two is shown.

    Raises:
        SkipoptError: matplotlib or Jinja2 is not installed.
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
    figures = [
        {
            "alt_text": picture.alt_text,
            "wide": markup(to_svg(picture.draw, WIDE, f"{picture.name}-wide-")),
            "narrow": markup(to_svg(picture.draw, NARROW, f"{picture.name}-narrow-")),
        }
        for picture in report.pictures
        if picture.on_page
    ]
    page: str = environment.from_string(text).render(
        report=report,
        figures=figures,
        light=LIGHT,
        dark=DARK,
        is_mask_picture=is_mask_picture,
        whole=lambda cell: markup(whole_speedups(str(markup.escape(cell)))),
    )
    return page


SPEEDUP = re.compile(r"\d+\.\d\d× \([^)]*\)")


def whole_speedups(escaped: str) -> str:
    """Text of a page in which `1.39× (1.35–1.43)` stays on one line."""
    return SPEEDUP.sub(r'<span class="speedup">\g<0></span>', escaped)


def is_mask_picture(cell: str) -> bool:
    """Whether a cell draws a mask, and so needs a monospaced font."""
    return SKIPPED in cell or KEPT in cell
