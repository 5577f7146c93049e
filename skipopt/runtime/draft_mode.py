"""What of a draft configuration a target can do on this machine, and its quantized weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from skipopt.draft_config import DraftConfig
from skipopt.errors import DraftConfigWarning
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
        if part.weight_bits:
            draft_config = replace(draft_config, weight_bits=None)
        else:
            draft_config = replace(draft_config, attention_window=None)
    return draft_config


def unsupported_reasons(target: Target, draft_config: DraftConfig) -> dict[DraftConfig, str]:
    """Each unsupported part, as a `DraftConfig` of its own, with the reason."""
    found: dict[DraftConfig, str] = {}
    bits, window = draft_config.weight_bits, draft_config.attention_window
    if bits is not None and (reason := target.runtime.quantized.unsupported_reason(bits)):
        found[DraftConfig(weight_bits=bits)] = reason
    if window is not None and not uses_causal_sdpa(target.model):
        reason = "this model has windows of its own, or attention that is not torch's"
        found[DraftConfig(attention_window=window)] = reason
    return found


def quantized_weights(target: Target, mask: SkipMask, bits: int | None) -> Patch:
    """A patch under which drafts read weights of `bits` bits, the output projection included.

    Args:
        bits: None for the model's own weights: the patch is then empty.
    """
    if bits is None:
        return Patch(())
    return target.runtime.quantized.patch(_modules_run(target, mask), bits)


def quantized_bytes(target: Target, masks: Iterable[SkipMask], bits: int | None) -> int:
    """Memory of the copies that drafts under these masks read, as far as they have been made."""
    if bits is None:
        return 0
    modules = {module for mask in masks for module in _modules_run(target, mask)}
    return target.runtime.quantized.bytes_of(modules, bits)


def _modules_run(target: Target, mask: SkipMask) -> list[nn.Module]:
    """What a draft under the mask runs: the sublayers that it keeps, and the output projection."""
    kept = (
        module
        for layer in target.layers
        for bit, kind in enumerate(KINDS)
        if 2 * layer.index + bit not in mask.skipped
        for branch in layer.branches(kind)
        for module in branch.module.modules()
    )
    return [*kept, target.model.get_output_embeddings()]
