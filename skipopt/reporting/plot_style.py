"""The style of all figures, and their rendering as PNG, PDF, and SVG for a file or a page.

matplotlib comes with the extra `skipopt[plots]` and is imported when a figure is drawn.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

from skipopt.errors import SkipoptError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Every value is unique: in an SVG it is replaced by `var(--name)`.
LIGHT = {
    "ink": "#1f2328",
    "muted": "#656d76",
    "line": "#c9d1d9",
    "paper": "#ffffff",
    "faint": "#e4e8ed",
    "blue": "#2f6fb0",
    "orange": "#c4632f",
}
DARK = {
    "ink": "#e6e9ed",
    "muted": "#9aa4af",
    "line": "#3d454e",
    "paper": "#15181c",
    "faint": "#2b3138",
    "blue": "#3d7ab8",
    "orange": "#e0905f",
}
INK, MUTED, LINE, PAPER, FAINT, BLUE, ORANGE = LIGHT.values()
# Told apart on light and on dark paper, also by those who see no red or no green.
FILLS = ("#3f7fc4", "#d9742b", "#4a9a7a", "#9a6fb8", "#8a8f98", "#b0892f")
DOTS_PER_INCH = 144
STYLE: dict[str, Any] = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": DOTS_PER_INCH,
    "figure.facecolor": PAPER,
    "figure.titlesize": 12,
    "axes.facecolor": "none",
    "font.family": ["sans-serif"],
    "font.size": 10,
    "hatch.color": PAPER,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",  # text stays text, for search, copying and screen readers
    "svg.hashsalt": "skipopt",  # ids in the file are the same each time
    "text.color": INK,
    "text.parse_math": False,  # names may contain a $
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
}


WIDE, NARROW = 9.0, 4.6  # inches of a figure, on a screen and on a telephone
Draw = Callable[[float], "Figure"]  # makes a figure of this width


def is_narrow(width: float) -> bool:
    """Whether names stand above their rows, because beside them there is no room."""
    return width < (WIDE + NARROW) / 2


def legend_place(width: float) -> Literal["outside lower left", "outside right upper"]:
    """Of a figure's legend: below a narrow figure, beside a wide one."""
    return "outside lower left" if is_narrow(width) else "outside right upper"


def to_png(draw: Draw, width: float = WIDE) -> bytes:
    """The figure as PNG, in light colors.

    Raises:
        SkipoptError: matplotlib is not installed.
    """
    return _render(draw, width, "png")


def to_pdf(draw: Draw) -> bytes:
    """The figure as PDF, in light colors; its text is text.

    Raises:
        SkipoptError: matplotlib is not installed.
    """
    return _render(draw, WIDE, "pdf", metadata={"CreationDate": None})


def to_svg_file(draw: Draw) -> bytes:
    """The figure as an SVG file, in light colors; its text is text.

    Raises:
        SkipoptError: matplotlib is not installed.
    """
    return _render(draw, WIDE, "svg", metadata=dict.fromkeys(METADATA))


def to_svg(draw: Draw, width: float = WIDE, prefix: str = "") -> str:
    """The figure as an `<svg>` element for a page that defines `--ink`, `--paper` and so on.

    Args:
        prefix: of all ids, so that a page may hold several figures.

    Raises:
        SkipoptError: matplotlib is not installed.
    """
    metadata = dict.fromkeys(METADATA)
    text = _render(draw, width, "svg", transparent=True, metadata=metadata).decode()
    for name, value in LIGHT.items():
        text = text.replace(value, f"var(--{name})")
    if prefix:
        text = REFERENCES.sub(lambda found: f"{found[1]}{prefix}", text)
    # The XML declaration before it is for separate files.
    return text[text.index("<svg") :]


METADATA = ("Creator", "Date", "Format", "Type")
REFERENCES = re.compile(r'((?<=\s)id="|href="#|url\(#)')


def _render(draw: Draw, width: float, form: Literal["png", "svg", "pdf"], **options: Any) -> bytes:
    with style():
        file = BytesIO()
        draw(width).savefig(file, format=form, **options)
    return file.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Sets the style, and silences matplotlib, while a figure is made and saved."""
    matplotlib = require("matplotlib")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The font may lack letters of a name.
        warnings.simplefilter("ignore", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def require(module: str) -> Any:
    """Import a module of the extra `plots`.

    Raises:
        SkipoptError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise SkipoptError(
            f"figures and pages need {module}, which is not installed",
            hint="pip install 'skipopt[plots]'",
        ) from None
