"""What of a draft configuration a target can do on this machine, and the weights it reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from skipopt.draft_config import DraftConfig
from skipopt.draft_vocabulary import DraftVocabulary, most_frequent
from skipopt.errors import DraftConfigWarning, UsageError
from skipopt.masks import KINDS, SkipMask
from skipopt.models.identity import weight_bytes
from skipopt.models.patch import Patch, Setting
from skipopt.runtime.attention_mask import uses_causal_sdpa
from skipopt.runtime.break_even import Preparation

if TYPE_CHECKING:
    from torch import nn

    from skipopt.kernels.native import NativeWeight
    from skipopt.models.target import Target
    from skipopt.runtime.draft_head import DraftHead

# What preparing drafts takes, measured on SmolLM2-135M and the built-in model and rounded up
# (`python -m benchmarks.first_text`, results/first-text-avx2.md): recording the step of drafts, as
# a share of what recording the plain step took, and where it is that step with other weights; the
# first draft beside a later one; copying and checking all weights, in plain steps, and beside that
# for each sublayer; choosing kernels.
STEP_SHARE, SHARED_STEP_SHARE = 1.0, 0.1
FIRST_DRAFT_SECONDS = 0.05
COPYING_STEPS = 5
SUBLAYER_SECONDS = 0.002
KERNEL_TIMING_SECONDS = 0.07
# Speedups of drafts that nobody has measured. Masks gain little on stock models. Quantized drafts
# were 1.4 to 2.3 times as fast where the weights are read from memory, and 1.2 times on a model of
# 46 MB (results/stock-speed.md, results/first-text-avx2.md).
PRIOR_SPEEDUP = 1.2
QUANTIZED_PRIOR_SPEEDUP = 1.5
BYTES_IN_CACHES = 128 * 2**20  # more than the last cache of most machines that run models


def supported(target: Target, draft_config: DraftConfig) -> DraftConfig:
    """The supported part of the configuration, with a warning about each other part."""
    for part, reason in unsupported_reasons(target, draft_config).items():
        warnings.warn(
            f"drafts do without {part}, and the text is the same: {reason}",
            DraftConfigWarning,
            stacklevel=2,
        )
    return supported_config(target, draft_config)


def check_layers(target: Target, draft_config: DraftConfig) -> None:
    """Raise UsageError if `int8_layers` names a layer that the model does not have."""
    if (last := max(draft_config.int8_layers, default=0)) >= target.depth:
        raise UsageError(f"int8_layers names layer {last}, and the last is {target.depth - 1}")


def check_experts(target: Target, draft_config: DraftConfig) -> None:
    """Raise UsageError if the model cannot run so few of its experts, or has none."""
    if draft_config.experts is None:
        return
    if reason := _experts_reason(target, draft_config.experts):
        raise UsageError(f"drafts cannot have experts={draft_config.experts}: {reason}")


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
    check_layers(target, draft_config)
    reasons = {part: _unsupported_reason(target, part) for part in draft_config.parts}
    return {part: reason for part, reason in reasons.items() if reason}


def _unsupported_reason(target: Target, part: DraftConfig) -> str | None:
    if part.experts is not None:
        return _experts_reason(target, part.experts)
    if part.vocab_size is not None:
        return _vocabulary_reason(target, part.vocab_size)
    if part.attention_window is not None:
        if target.keeps_own_cache:
            return "this model makes its cache and its attention masks itself"
        if uses_causal_sdpa(target.model):
            return None
        return "this model has windows of its own, or attention that is not torch's"
    bits = 8 if part.int8_layers else part.weight_bits or part.head_bits
    return None if bits is None else target.runtime.quantized.unsupported_reason(bits)


def _experts_reason(target: Target, count: int) -> str | None:
    """Why drafts cannot run `count` routed experts for a token."""
    with target.runtime.lock:
        return target.runtime.experts.unsupported_reason(count)


def _vocabulary_reason(target: Target, size: int) -> str | None:
    """Why drafts cannot choose from `size` tokens."""
    reason = target.runtime.draft_heads.unsupported_reason
    if reason is None and size >= draftable_tokens(target):
        return f"the model has {draftable_tokens(target)} tokens"
    return reason


def draftable_tokens(target: Target) -> int:
    """The ids below this number have logits and embeddings."""
    return min(target.runtime.draft_heads.width, target.vocab_size)


def with_vocabulary(
    target: Target, draft_config: DraftConfig, texts: Iterable[Sequence[int]]
) -> DraftConfig:
    """The configuration with the tokens of its vocabulary, if it has one without them.

    Args:
        draft_config: supported.
        texts: token ids, whose frequent tokens are taken.
    """
    size = draft_config.vocab_size
    if size is None or draft_config.vocabulary is not None:
        return draft_config
    return replace(draft_config, vocabulary=frequent_vocabulary(target, texts, size))


def frequent_vocabulary(
    target: Target, texts: Iterable[Sequence[int]], size: int
) -> DraftVocabulary:
    """`most_frequent`, with the model's end-of-text tokens and the tokenizer's special ones."""
    special = getattr(target.tokenizer, "all_special_ids", None) or ()
    always = (*sorted(target.eos_ids), *special)
    return most_frequent(texts, size, draftable_tokens(target), always)


@dataclass(frozen=True, slots=True)
class DraftWeights:
    """What a draft reads instead of the model's own weights.

    Attributes:
        patch: applied to the model's modules while it drafts; it also makes routers choose fewer
            experts.
        head: its output projection, where that is computed for a part of the vocabulary.
        vocabulary: this part.
        copies: if the patch only replaces weights by native copies: these, by the addresses of
            the weights.
    """

    patch: Patch
    head: DraftHead | None = None
    vocabulary: DraftVocabulary | None = None
    copies: Mapping[int, NativeWeight] | None = None

    def prepare(self) -> None:
        """Let the head work on the vocabulary. Call it before the patch is applied."""
        if self.head is not None and self.vocabulary is not None:
            self.head.use(self.vocabulary)


def draft_weights(target: Target, mask: SkipMask, draft_config: DraftConfig) -> DraftWeights:
    """The quantized copies and the draft head of a supported configuration, made where needed.

    Raises:
        UsageError: a vocabulary with a token that the model does not have.
    """
    vocabulary, runtime = draft_config.vocabulary, target.runtime
    bits = _bits_of_modules(target, mask, draft_config)
    changes = runtime.quantized.replacements(bits)
    copies = runtime.quantized.native_copies(bits) if draft_config.experts is None else None
    settings: list[Setting] = []
    if draft_config.experts is not None:
        fewer = runtime.experts.fewer(draft_config.experts)
        changes += fewer.forwards
        settings += fewer.settings
    if vocabulary is None:
        assert draft_config.vocab_size is None, "see `with_vocabulary`"
        return DraftWeights(Patch(changes, settings=settings), copies=copies)
    if vocabulary.largest >= draftable_tokens(target):
        raise UsageError(
            f"the draft vocabulary has the token {vocabulary.largest}, but the model has "
            f"{draftable_tokens(target)} tokens"
        )
    head = runtime.draft_heads.head(vocabulary, _head_bits(draft_config))
    changes.append((target.model.get_output_embeddings(), head.forward))
    return DraftWeights(Patch(changes, settings=settings), head, vocabulary)


class DraftBytes(NamedTuple):
    """Bytes of quantized copies of layers, and of the rows of a draft vocabulary."""

    quantized_weights: int
    draft_vocabulary: int


def draft_weight_bytes(
    target: Target, masks: Iterable[SkipMask], draft_config: DraftConfig
) -> DraftBytes:
    """Memory of the copies that drafts under these masks read, as far as they have been made."""
    bits: dict[nn.Module, int] = {}
    for mask in masks:
        bits |= _bits_of_modules(target, mask, draft_config)
    size, runtime = draft_config.vocab_size, target.runtime
    head = 0 if size is None else runtime.draft_heads.bytes_of(size, _head_bits(draft_config))
    return DraftBytes(runtime.quantized.bytes_of(bits), head)


def _head_bits(draft_config: DraftConfig) -> int | None:
    return None if draft_config.weights is None else draft_config.weights.head


def preparation_seconds(target: Target, needed: Preparation, plain_seconds: float) -> float:
    """An estimate of what preparing drafts takes.

    Args:
        plain_seconds: of a plain step, which reads all weights once.
    """
    pool = target.runtime.step_caches
    shared = pool.native is not None and not needed.mask.skipped and needed.vocab_size is None
    share = SHARED_STEP_SHARE if shared else STEP_SHARE
    seconds = share * pool.mean_capture_seconds + FIRST_DRAFT_SECONDS
    if needed.weights is not None and not target.runtime.quantized.extra_bytes:
        copied = COPYING_STEPS * read_share(target, needed)
        sublayers = 2 * target.depth - len(needed.mask.skipped)
        seconds += KERNEL_TIMING_SECONDS + SUBLAYER_SECONDS * sublayers + copied * plain_seconds
    return seconds


def prior_speedup(target: Target, needed: Preparation) -> float:
    """What drafts are expected to gain before anything was measured."""
    in_caches = weight_bytes(target.model) <= BYTES_IN_CACHES
    return PRIOR_SPEEDUP if needed.weights is None or in_caches else QUANTIZED_PRIOR_SPEEDUP


def read_share(target: Target, needed: Preparation) -> float:
    """About which part of all weights drafts read: the kept sublayers, and rows of the head."""
    kept = 1 - len(needed.mask.skipped) / (2 * target.depth)
    if needed.vocab_size is None or target.runtime.draft_heads.unsupported_reason:
        return kept
    head = head_share(target)
    return kept * (1 - head) + head * min(1.0, needed.vocab_size / draftable_tokens(target))


def head_share(target: Target) -> float:
    """Share of the weights that the output projection has; 0 where drafts read all of it."""
    if target.runtime.draft_heads.unsupported_reason:
        return 0.0
    every = sum(p.numel() for p in target.model.parameters())
    return float(target.model.get_output_embeddings().weight.numel() / every)


def _bits_of_modules(
    target: Target, mask: SkipMask, draft_config: DraftConfig
) -> dict[nn.Module, int]:
    """The bits of what a draft runs: the sublayers that the mask keeps, and the whole head."""
    weights = draft_config.weights
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
    if draft_config.vocab_size is None:
        found[target.model.get_output_embeddings()] = weights.head
    return {module: bits for module, bits in found.items() if bits is not None}
