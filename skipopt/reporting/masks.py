"""Skip masks drawn in characters: two rows, one cell per layer."""

from __future__ import annotations

from skipopt.masks import KINDS, SkipMask

SKIPPED, KEPT = "█", "░"


def mask_rows(mask: SkipMask) -> tuple[str, str]:
    """`attn ░█░░`, `mlp  ░░█░`: skipped sublayers are filled."""
    attention, mlp = (
        "".join(
            SKIPPED if 2 * layer + bit in mask.skipped else KEPT for layer in range(mask.layers)
        )
        for bit, _ in enumerate(KINDS)
    )
    return f"attn {attention}", f"mlp  {mlp}"


def layer_ruler(layers: int) -> str:
    """Every fifth layer's number, as the line below the rows."""
    cells = [" "] * (layers + 2)
    for layer in range(0, layers, 5):
        cells[layer : layer + len(str(layer))] = str(layer)
    return "     " + "".join(cells).rstrip()


def mask_picture(mask: SkipMask) -> str:
    """Both rows with the layer numbers below."""
    return "\n".join((*mask_rows(mask), layer_ruler(mask.layers)))
