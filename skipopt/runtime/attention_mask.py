"""Attention masks in the form that each architecture takes, from which row attends to which key.

The one builder for every forward that needs its own mask: trees, verification behind a cache,
captured steps, stacked drafts in scoring, mask tokens in training. The rules are transformers':
full layers see every earlier key, sliding layers the latest `sliding_window` positions, chunked
layers the positions of their own chunk (Llama 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from sys import modules
from typing import Any

import torch
from torch import Tensor

from skipopt.errors import ModelError
from skipopt.models.text_states import keeps_states

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
INDEXED = "indexed_attention"  # chooses among the keys that a mask shows
LAYER_TYPES = (FULL, SLIDING, CHUNKED, INDEXED)
RECURRENT = "linear_attention"
BESIDE_RECURRENT = {"hybrid": FULL, "hybrid_sliding": SLIDING}  # attention beside a recurrence
IMPLEMENTATIONS = ("sdpa", "eager")
WINDOW_BUILDER = "create_sliding_window_causal_mask"  # of transformers, used where it is imported
# First positions that a draft's attention window always shows: attention relies on them
# (StreamingLLM, arXiv 2309.17453).
SINKS = 4


@dataclass(frozen=True, slots=True)
class AttentionMaskFormat:
    """Which masks a model takes.

    Attributes:
        layer_types: the kinds of attention among its layers.
        sliding_window: latest positions that sliding layers see, the row's own included.
        chunk_size: positions of a chunk in chunked layers.
        unsupported_reason: why the model cannot be given a mask; None where it can.
    """

    layer_types: frozenset[str]
    sliding_window: int | None = None
    chunk_size: int | None = None
    unsupported_reason: str | None = None

    def build(
        self,
        attends: Tensor,
        query_positions: Tensor,
        key_positions: Tensor,
        dtype: torch.dtype,
    ) -> Any:
        """Additive masks, which eager attention and SDPA both understand.

        Args:
            attends: which keys each row attends to in a full layer.  # (n, m) or (B, n, m) bool
            query_positions: of each row in its text.  # (n,) or (B, n)
            key_positions: of each key in its text.  # (m,) or (B, m)

        Returns:
            One mask (B, 1, n, m), or a mapping from layer type to mask if the model mixes types of
            attention; recurrent layers take none.
        """
        queries, keys = query_positions[..., :, None], key_positions[..., None, :]
        kinds = self.layer_types & set(LAYER_TYPES) or {FULL}
        masks = {kind: self._visible(kind, attends, queries, keys) for kind in kinds}
        additive = {kind: _additive(visible, dtype) for kind, visible in masks.items()}
        if len(additive) == 1:
            return next(iter(additive.values()))
        return dict.fromkeys(self.layer_types) | additive

    def _visible(self, kind: str, attends: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        if kind == SLIDING and self.sliding_window is not None:
            return attends & (keys > queries - self.sliding_window)
        if kind == CHUNKED and self.chunk_size is not None:
            return attends & (keys // self.chunk_size == queries // self.chunk_size)
        return attends

    @property
    def reads_positions(self) -> bool:
        """Whether masks depend on positions, and not on `attends` alone."""
        return self.sliding_window is not None or self.chunk_size is not None

    def require_trees(self) -> None:
        """Raise ModelError if the model cannot be given the mask of a draft tree."""
        if self.unsupported_reason is not None:
            raise ModelError(
                f"this model cannot verify a draft tree: {self.unsupported_reason}",
                hint="use a method that drafts chains: layer-skip, suffix",
            )


def attention_mask_format(model: Any) -> AttentionMaskFormat:
    """The format that the model's configuration states."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = frozenset(getattr(config, "layer_types", None) or ())
    if kinds & BESIDE_RECURRENT.keys():
        kinds = frozenset(BESIDE_RECURRENT.get(kind, kind) for kind in kinds) | {RECURRENT}
    if not kinds:
        kinds = frozenset({FULL if window is None else SLIDING})
    chunk_size = getattr(config, "attention_chunk_size", None)
    reason = _unsupported_reason(config, kinds) or _not_given_reason(model, kinds)
    if keeps_states(model):
        reason = "it keeps states of a text, which hold one branch of a tree at a time"
    return AttentionMaskFormat(kinds, window, chunk_size, reason)


def causal(start: int, count: int, device: torch.device) -> Tensor:
    """Rows in a text behind `start` keys: each attends to all up to itself.  # (n, start + n)"""
    every = torch.ones(count, start + count, dtype=torch.bool, device=device)
    return every.tril_(start)


def within_window(
    attends: Tensor, query_positions: Tensor, key_positions: Tensor, window: int
) -> Tensor:
    """`attends`, limited to a draft's attention window: `window` latest positions and `SINKS`.

    Only for models whose layers all use full attention. Shapes as in `AttentionMaskFormat.build`.
    """
    queries, keys = query_positions[..., :, None], key_positions[..., None, :]
    return attends & ((keys > queries - window) | (keys < SINKS))


def uses_causal_sdpa(model: Any) -> bool:
    """Whether one causal mask serves every layer, and SDPA takes it.

    Not so with sliding or chunked layers, ALiBi, or another attention implementation.
    """
    form = attention_mask_format(model)
    config = model.config.get_text_config(decoder=True)
    full = form.unsupported_reason is None and form.layer_types == {FULL}
    no_window = getattr(config, "sliding_window", None) is None
    return full and no_window and config._attn_implementation == "sdpa"


def _unsupported_reason(config: Any, kinds: frozenset[str]) -> str | None:
    if unknown := kinds - set(LAYER_TYPES):
        return f"it has layers of {', '.join(sorted(unknown))}"
    if reason := _counted_as_stored_reason(config):
        return reason
    if getattr(config, "attn_temperature_tuning", False):
        # Llama 4 scales queries by storage index, whatever positions it is given.
        return "its attention temperature counts rows as they are stored"
    if config._attn_implementation not in IMPLEMENTATIONS:
        return f"its attention runs on {config._attn_implementation}"
    return None


def _counted_as_stored_reason(config: Any) -> str | None:
    """The attention of the model that goes by the order of stored rows, whatever it is given."""
    if getattr(config, "alibi", False):
        return "its positions are ALiBi biases"
    if "local" in (getattr(config, "attention_layers", None) or ()):
        # GPT-Neo applies its own window, by storage index, to any mask it is given.
        return "its local attention counts rows as they are stored"
    return None


def stored_order_reason(model: Any) -> str | None:
    """Why rows of one text may not be stored in any order; None where positions and a mask decide.

    Not known of models that keep states, which need no positions.
    """
    if keeps_states(model):
        return None
    config = model.config.get_text_config(decoder=True)
    kinds = attention_mask_format(model).layer_types
    return _counted_as_stored_reason(config) or _not_given_reason(model, kinds)


def _not_given_reason(model: Any, kinds: frozenset[str]) -> str | None:
    """Why the model would not compute what positions and a mask that it is given say."""
    if not takes_positions(model):
        return "its positions count rows as they are stored"
    stated = getattr(model.config.get_text_config(decoder=True), "layer_types", None)
    builders = (vars(modules[type(each).__module__]) for each in _decoders(model))
    if kinds == {SLIDING} and not stated and not any(WINDOW_BUILDER in x for x in builders):
        return "whether its attention has the window of its configuration is not known"
    return None


def takes_positions(model: Any) -> bool:
    """Whether rows have the positions that the model is given, and not those of their storage."""
    forwards = (getattr(type(each), "forward", None) for each in _decoders(model))
    return any(each and "position_ids" in signature(each).parameters for each in forwards)


def _decoders(model: Any) -> list[Any]:
    """The model, and what it may hand its arguments on to."""
    parts = [model, *(getattr(model, name, None) for name in ("base_model", "model"))]
    if callable(get_decoder := getattr(model, "get_decoder", None)):
        parts.append(get_decoder())
    return [each for each in parts if each is not None]


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible, the lowest number of the dtype elsewhere.  # (B, 1, n, m)"""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    mask.masked_fill_(~visible, torch.finfo(dtype).min)
    return mask[None, None] if mask.ndim == 2 else mask[:, None]
