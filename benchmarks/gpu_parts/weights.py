"""Bytes that one decoding step reads, with all sublayers and under a mask."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any

from skipopt.masks import KINDS, SkipMask

if TYPE_CHECKING:
    from torch import nn

    from skipopt.models.target import Target

MASKS = 10


def read_bytes(target: Target, context: int) -> int:
    """Of a plain step: all parameters, and the keys and values of `context` tokens.

    An embedding that is not the output head as well is left out: only one row of it is read.
    """
    return _step_weights(target.model) + target.depth * cache_bytes(target.model, context)


def kept_bytes(target: Target, mask: SkipMask, context: int) -> int:
    """Of a draft step under `mask`, the output head included."""
    skipped = 0
    for layer in target.layers:
        for bit, kind in enumerate(KINDS):
            if 2 * layer.index + bit in mask.skipped:
                branches = [branch.module for branch in layer.branches(kind)]
                skipped += _bytes([*branches, *layer.branch_norms[kind]])
    skipped += len(mask.attention) * cache_bytes(target.model, context)
    return read_bytes(target, context) - skipped


def cache_bytes(model: Any, context: int) -> int:
    """Keys and values of one layer."""
    config = model.config.get_text_config(decoder=True)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * context * config.num_key_value_heads * width * model.dtype.itemsize)


def random_masks(depth: int, count: int = MASKS) -> list[SkipMask]:
    """Masks with evenly spread skip ratios."""
    rng = Random(0)
    shares = [(i + 0.5) / count for i in range(count)]
    places = range(2 * depth)
    return [SkipMask(depth, frozenset(rng.sample(places, round(s * len(places))))) for s in shares]


def _step_weights(model: Any) -> int:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = embedding.weight is head.weight
    return _bytes([model]) - (0 if tied else _bytes([embedding]))


def _bytes(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())
