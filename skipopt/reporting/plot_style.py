"""Figures become PNG, or SVG whose colours are those of the page around it.

One style for all of them, set around drawing and nowhere else. Knows nothing of what is drawn.
matplotlib is an extra, `skipopt[plots]`, and is loaded when a figure is wanted.
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

# Each value once: in an SVG, a colour is recognised by it and becomes `var(--name)`.
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
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found and copied
    "svg.hashsalt": "skipopt",  # the same figure, the same file
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a $
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
}


def to_png(draw: Callable[[], Figure]) -> bytes:
    """The figure in light colours.

    Raises:
        SkipoptError: there is no matplotlib.
    """
    return _render(draw, "png")


def to_svg(draw: Callable[[], Figure]) -> str:
    """An `<svg>` to be put into a page that defines `--ink`, `--paper` and so on.

    Raises:
        SkipoptError: there is no matplotlib.
    """
    text = _render(draw, "svg", transparent=True, metadata=dict.fromkeys(METADATA)).decode()
    for name, value in LIGHT.items():
        text = text.replace(value, f"var(--{name})")
    # What stands before is for files of their own.
    return text[text.index("<svg") :]


METADATA = ("Creator", "Date", "Format", "Type")


def _render(draw: Callable[[], Figure], form: Literal["png", "svg"], **options: Any) -> bytes:
    with style():
        file = BytesIO()
        draw().savefig(file, format=form, **options)
    return file.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Figures made and saved under it look alike; what matplotlib had to say is not said."""
    matplotlib = require("matplotlib")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in a script that the font has no letters for is no reason for a warning.
        warnings.simplefilter("ignore", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def require(module: str) -> Any:
    """A module of the extra.

    Raises:
        SkipoptError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise SkipoptError(
            f"pictures and pages need {module}, which is not installed",
            hint="pip install 'skipopt[plots]'",
        ) from None
