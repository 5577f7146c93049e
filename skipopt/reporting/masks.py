"""Skip masks drawn in characters: two rows, one cell per layer."""

from __future__ import annotations

from collections.abc import Iterator

from skipopt.masks import KINDS, SkipMask

SKIPPED, KEPT = "█", "░"
LEGEND = f"{SKIPPED} skipped while drafting, {KEPT} kept"
NAMES = ("attn ", "mlp  ")
RULER_STEP = 5  # layers between two numbers


def mask_rows(mask: SkipMask) -> tuple[str, str]:
    """`attn ░█░░`, `mlp  ░░█░`: skipped sublayers are filled."""
    attention, mlp = (
        name + "".join(_cell(mask, layer, bit) for layer in range(mask.layers))
        for bit, name in enumerate(NAMES)
    )
    return attention, mlp


def _cell(mask: SkipMask, layer: int, bit: int) -> str:
    return SKIPPED if len(KINDS) * layer + bit in mask.skipped else KEPT


def layer_ruler(first: int, end: int) -> str:
    """Every fifth layer's number, as the line below the rows of layers `first` to `end` - 1."""
    cells = [" "] * (end - first + len(str(end)))
    for layer in range(first, end, RULER_STEP):
        at = layer - first
        cells[at : at + len(str(layer))] = str(layer)
    return " " * len(NAMES[0]) + "".join(cells).rstrip()


def mask_picture(mask: SkipMask, width: int = 10_000, ruler: bool = True) -> str:
    """Both rows, with the layer numbers below; in blocks of layers where `width` has no room."""
    return "\n".join(line for block in _blocks(mask, width, ruler) for line in block)


def _blocks(mask: SkipMask, width: int, ruler: bool) -> Iterator[list[str]]:
    begin = len(NAMES[0])
    room = max(1, width - begin - len(str(mask.layers)) + 1)  # the last number may stand out
    if room < mask.layers and room > RULER_STEP:
        room -= room % RULER_STEP
    for first in range(0, mask.layers, room):
        end = min(mask.layers, first + room)
        rows = [
            name + row[begin + first : begin + end]
            for name, row in zip(NAMES, mask_rows(mask), strict=True)
        ]
        yield [*rows, layer_ruler(first, end)] if ruler else rows
