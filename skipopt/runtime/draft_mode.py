"""What of a draft configuration a target can do on this machine, and its quantized weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from skipopt.draft_config import DraftConfig, WeightBits
from skipopt.errors import DraftConfigWarning, UsageError
from skipopt.masks import KINDS, SkipMask
from skipopt.models.patch import Patch
from skipopt.runtime.attention_mask import uses_causal_sdpa

if TYPE_CHECKING:
    from torch import nn

    from skipopt.models.target import Target


def supported(target: Target, draft_config: DraftConfig) -> DraftConfig:
    """The supported part of the configuration, with a warning about each other part."""
    for part, reason in unsupported_reasons(target, draft_config).items():
        warnings.warn(
            f"drafts do without {part}, and the text is the same: {reason}",
            DraftConfigWarning,
            stacklevel=2,
        )
    return supported_config(target, draft_config)


def supported_config(target: Target, draft_config: DraftConfig) -> DraftConfig:
    """The supported part of the configuration, without warnings."""
    for part in unsupported_reasons(target, draft_config):
        draft_config = draft_config.without(part)
    return draft_config


def unsupported_reasons(target: Target, draft_config: DraftConfig) -> dict[DraftConfig, str]:
    """Each unsupported part (see `DraftConfig.parts`), with the reason.

    Raises:
        UsageError: `int8_layers` names a layer that the model does not have.
    """
    if (last := max(draft_config.int8_layers, default=0)) >= target.depth:
        raise UsageError(f"int8_layers names layer {last}, and the last is {target.depth - 1}")
    reasons = {part: _unsupported_reason(target, part) for part in draft_config.parts}
    return {part: reason for part, reason in reasons.items() if reason}


def _unsupported_reason(target: Target, part: DraftConfig) -> str | None:
    if part.attention_window is not None:
        if uses_causal_sdpa(target.model):
            return None
        return "this model has windows of its own, or attention that is not torch's"
    bits = 8 if part.int8_layers else part.weight_bits or part.head_bits
    return None if bits is None else target.runtime.quantized.unsupported_reason(bits)


def quantized_weights(target: Target, mask: SkipMask, weights: WeightBits | None) -> Patch:
    """A patch under which drafts read weights of these bits, the output projection included.

    Args:
        weights: None for the model's own weights: the patch is then empty.
    """
    return target.runtime.quantized.patch(_bits_of_modules(target, mask, weights))


def quantized_bytes(target: Target, masks: Iterable[SkipMask], weights: WeightBits | None) -> int:
    """Memory of the copies that drafts under these masks read, as far as they have been made."""
    bits: dict[nn.Module, int] = {}
    for mask in masks:
        bits |= _bits_of_modules(target, mask, weights)
    return target.runtime.quantized.bytes_of(bits)


def _bits_of_modules(
    target: Target, mask: SkipMask, weights: WeightBits | None
) -> dict[nn.Module, int]:
    """The bits of what a draft runs: the sublayers that the mask keeps, and the head."""
    if weights is None:
        return {}
    found = {
        module: weights.of_layer(layer.index)
        for layer in target.layers
        for bit, kind in enumerate(KINDS)
        if 2 * layer.index + bit not in mask.skipped
        for branch in layer.branches(kind)
        for module in branch.module.modules()
    }
    found[target.model.get_output_embeddings()] = weights.head
    return {module: bits for module, bits in found.items() if bits is not None}
