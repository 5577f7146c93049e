"""The style of all figures, and their rendering as PNG or as SVG with the page's colors.

matplotlib comes with the extra `skipopt[plots]` and is imported when a figure is drawn.
"""

from __future__ import annotations

import logging
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
    "svg.fonttype": "none",  # text stays text, for search, copying and screen readers
    "svg.hashsalt": "skipopt",  # ids in the file are the same each time
    "text.color": INK,
    "text.parse_math": False,  # names may contain a $
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
}


def to_png(draw: Callable[[], Figure]) -> bytes:
    """The figure as PNG, in light colors.

    Raises:
        SkipoptError: matplotlib is not installed.
    """
    return _render(draw, "png")


def to_svg(draw: Callable[[], Figure]) -> str:
    """The figure as an `<svg>` element for a page that defines `--ink`, `--paper` and so on.

    Raises:
        SkipoptError: matplotlib is not installed.
    """
    text = _render(draw, "svg", transparent=True, metadata=dict.fromkeys(METADATA)).decode()
    for name, value in LIGHT.items():
        text = text.replace(value, f"var(--{name})")
    # The XML declaration before it is for separate files.
    return text[text.index("<svg") :]


METADATA = ("Creator", "Date", "Format", "Type")


def _render(draw: Callable[[], Figure], form: Literal["png", "svg"], **options: Any) -> bytes:
    with style():
        file = BytesIO()
        draw().savefig(file, format=form, **options)
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
