"""Sublayers as two rows of cells, one column per layer: masks, and what skipping each changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipopt.masks import KINDS, SkipMask
from skipopt.reporting.plot_style import BLUE, FAINT, PAPER, is_narrow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PatchCollection

STRIP_HEIGHT = 0.5  # inches
NAMES = ("attention", "MLP")


def draw_mask(axes: Axes, mask: SkipMask, width: float) -> None:
    """Skipped sublayers are filled."""
    colors = [BLUE if i in mask.skipped else FAINT for i in range(len(KINDS) * mask.layers)]
    draw_strip(axes, mask.layers, width).set_facecolor(colors)


def draw_strip(axes: Axes, layers: int, width: float) -> PatchCollection:
    """Cells without colors, with the layers' numbers below."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    kinds = len(KINDS)
    cells = [Rectangle((i // kinds, i % kinds), 1, 1) for i in range(kinds * layers)]
    wide_cells = layers <= (28 if is_narrow(width) else 64)
    strip = PatchCollection(cells, edgecolor=PAPER, lw=1.5 if wide_cells else 0.5)
    axes.add_collection(strip)
    axes.set_xlim(0, layers)
    axes.set_ylim(kinds, 0)
    axes.set_yticks([0.5, 1.5], NAMES)
    numbers = _numbers(layers, is_narrow(width))
    axes.set_xticks([layer + 0.5 for layer in numbers], [str(layer) for layer in numbers])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return strip


def _numbers(layers: int, narrow: bool) -> Sequence[int]:
    """The layers whose numbers are drawn."""
    if layers <= 12:
        return range(layers)
    return range(0, layers, 5 * (1 + layers // (40 if narrow else 80)))
