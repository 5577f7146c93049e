"""Run a model without the sublayers of a skip mask, by patching `forward` on its modules.

A skipped sublayer returns zeros in its own return structure, and the norms that only it reads are
passed through. A layer with both sublayers skipped is replaced as a whole by the identity, where
that is the same. A sublayer that cannot be left out runs, whatever the mask says.
An attention whose keys, values or index later layers read still runs, and only its output is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from skipopt.errors import MaskError
from skipopt.masks import KINDS, SkipMask
from skipopt.models.patch import Forward, Patch
from skipopt.models.sublayers import identity_norm

if TYPE_CHECKING:
    from torch import nn

    from skipopt.models.sublayers import DecoderLayer
    from skipopt.models.target import Target


def skipping(target: Target, mask: SkipMask) -> Patch:
    """A reusable context manager under which the model runs without the masked sublayers.

    Restores every instance attribute it replaced (hooks of accelerate included), also after an
    error. Draft & Verify (arXiv 2309.08168, §3.2): a skipped sublayer is the identity on the
    residual stream.

    Raises:
        MaskError: the mask is for a model of another depth.
    """
    return target.runtime.patch(skip_changes(target.layers, mask), key=mask)


def skip_changes(
    layers: Sequence[DecoderLayer], mask: SkipMask
) -> list[tuple[nn.Module, Forward]]:
    """The (module, forward) replacements of which the patch of a mask consists.

    Raises:
        MaskError: the mask is for a model of another depth.
    """
    if mask.layers != len(layers):
        raise MaskError(
            f"the mask is for {mask.layers} layers, but the model has {len(layers)}",
            hint="search a mask for this model",
        )
    return [change for layer in layers for change in _layer_changes(layer, mask)]


def _layer_changes(layer: DecoderLayer, mask: SkipMask) -> Iterator[tuple[nn.Module, Forward]]:
    kinds = [k for bit, k in enumerate(KINDS) if 2 * layer.index + bit in mask.skipped]
    if len(kinds) == len(KINDS) and layer.can_be_bypassed:
        yield layer.block.module, layer.block.identity
        return
    for kind in kinds:
        if kind == "attention" and layer.feeds_others:
            yield from (
                (branch.module, partial(branch.muted, branch.module.forward))
                for branch in layer.attention
            )
            continue
        yield from ((branch.module, branch.zeros) for branch in layer.branches(kind))
        yield from ((module, identity_norm) for module in layer.branch_norms[kind])
