"""The one place where a mask touches a model; it leaves no trace after.

A skipped sublayer returns zeros in its own return structure, and the norms that fed only it
are passed over; a layer skipped whole leaves the loop: its forward hands the stream on.
Knows nothing of searching or decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipopt.errors import MaskError
from skipopt.masks import KINDS, SkipMask
from skipopt.models.patch import Forward, Patch

if TYPE_CHECKING:
    from torch import nn

    from skipopt.models.sublayers import DecoderLayer


def skipping(layers: Sequence[DecoderLayer], mask: SkipMask) -> Patch:
    """A reusable context manager under which the model runs without the masked sublayers.

    Restores every instance attribute it replaced (hooks of accelerate included), also after an
    error. Draft & Verify (arXiv 2309.08168, §3.2): a skipped sublayer is the identity on the
    residual stream.

    Raises:
        MaskError: the mask is for a model of another depth.
    """
    if mask.layers != len(layers):
        raise MaskError(
            f"the mask is for {mask.layers} layers, but the model has {len(layers)}",
            hint="search a mask for this model",
        )
    changes = (change for layer in layers for change in _changes(layer, mask))
    return Patch(changes, key=mask, log=layers[0].applied)


def _changes(layer: DecoderLayer, mask: SkipMask) -> list[tuple[nn.Module, Forward]]:
    from skipopt.models.sublayers import pass_through

    kinds = [k for bit, k in enumerate(KINDS) if 2 * layer.index + bit in mask.skipped]
    if len(kinds) == len(KINDS):
        return [(layer.whole.module, layer.whole.identity)]
    changes: list[tuple[nn.Module, Forward]] = []
    for kind in kinds:
        changes += [(branch.module, branch.zeros) for branch in layer.branches(kind)]
        changes += [(module, pass_through) for module in layer.feeders[kind]]
    return changes
