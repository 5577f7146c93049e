"""A draft's levers on one target: which there are here, and what they put in force.

Knows nothing of drafters, or of whether a lever pays.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from skipopt.draft_config import DraftConfig
from skipopt.errors import DraftConfigWarning
from skipopt.masks import KINDS, SkipMask
from skipopt.models.patch import Patch

if TYPE_CHECKING:
    from torch import nn

    from skipopt.models.target import Target


def supported(target: Target, draft_config: DraftConfig) -> DraftConfig:
    """Those of the levers that there are on this machine; the others are told in a warning."""
    for lever, reason in unsupported_reasons(target, draft_config).items():
        warnings.warn(
            f"drafts do without {lever}, and the text is the same: {reason}",
            DraftConfigWarning,
            stacklevel=2,
        )
    return supported_config(target, draft_config)


def supported_config(target: Target, draft_config: DraftConfig) -> DraftConfig:
    """The same, without a word."""
    for lever in unsupported_reasons(target, draft_config):
        draft_config = (
            replace(draft_config, weight_bits=None)
            if lever.weight_bits
            else replace(draft_config, attention_window=None)
        )
    return draft_config


def unsupported_reasons(target: Target, draft_config: DraftConfig) -> dict[DraftConfig, str]:
    """What stands in the way of each lever that is not to be had here."""
    from skipopt.runtime.attention_mask import uses_causal_sdpa

    found: dict[DraftConfig, str] = {}
    if draft_config.weight_bits is not None and (
        reason := target.runtime.quantized.unsupported_reason(draft_config.weight_bits)
    ):
        found[DraftConfig(weight_bits=draft_config.weight_bits)] = reason
    if draft_config.attention_window is not None and not uses_causal_sdpa(target.model):
        reason = "this model has windows of its own, or attention that is not torch's"
        found[DraftConfig(attention_window=draft_config.attention_window)] = reason
    return found


def quantized_weights(target: Target, mask: SkipMask, bits: int | None) -> Patch:
    """Under it, what the mask keeps reads weights of so many bits, and so does the head."""
    if bits is None:
        return Patch(())
    return target.runtime.quantized.patch(_read(target, mask), bits)


def quantized_bytes(target: Target, masks: Iterable[SkipMask], bits: int | None) -> int:
    """Memory of the copies that drafts under these masks read, of those made so far."""
    if bits is None:
        return 0
    return target.runtime.quantized.bytes_of(
        {m for mask in masks for m in _read(target, mask)}, bits
    )


def _read(target: Target, mask: SkipMask) -> list[nn.Module]:
    """What a draft under the mask runs, the head included."""
    return [*_kept(target, mask), target.model.get_output_embeddings()]


def _kept(target: Target, mask: SkipMask) -> list[nn.Module]:
    return [
        module
        for layer in target.layers
        for bit, kind in enumerate(KINDS)
        if 2 * layer.index + bit not in mask.skipped
        for branch in layer.branches(kind)
        for module in branch.module.modules()
    ]
