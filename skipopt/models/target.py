"""The target: one loaded model with its tokenizer, its proved sublayers and its identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from skipopt.masks import KINDS
from skipopt.memory_usage import Memory
from skipopt.models.device_map import input_device
from skipopt.models.identity import tokenizer_fingerprint, weight_bytes
from skipopt.models.sublayers import DecoderLayer

if TYPE_CHECKING:
    from skipopt.runtime.runtime import Runtime  # a type only: `runtime` builds on `models`


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Target:
    """A model that can be decoded with, in full or under a skip mask.

    Build one with `skipopt.load` or `skipopt.runtime.load.make_target`.

    Attributes:
        layers: the decoder layers; each was proved skippable.
        model_id: where it came from: a hub id, a folder, the absolute path of a GGUF file,
            `builtin`, or a class name.
        revision: branch, tag or commit on the hub; None where none was asked for.
        fingerprint: `sha256:…` over architecture, shapes and sampled weights; the same on every
            device, and in float32 and bfloat16.
        eos_ids: tokens that end a text.
        context_limit: most tokens that the model's positions allow.
        runtime: how its forwards are run, and everything mutable that belongs to them.
    """

    model: Any
    tokenizer: Any
    layers: tuple[DecoderLayer, ...]
    model_id: str
    revision: str | None
    fingerprint: str
    eos_ids: frozenset[int]
    context_limit: int
    runtime: Runtime

    def __repr__(self) -> str:
        return (
            f"Target({self.model_id!r}, {self.architecture}, {self.depth} layers, {self.dtype} on "
            f"{self.device})"
        )

    @property
    def memory(self) -> Memory:
        """Bytes held now: the model's weights, copies of them, and the kept KV cache."""
        runtime = self.runtime
        return Memory(
            weights=weight_bytes(self.model),
            prepacked_weights=runtime.kernels.extra_bytes,
            fused_weights=runtime.step_caches.extra_bytes,
            quantized_weights=runtime.quantized.extra_bytes,
            draft_vocabulary=runtime.draft_heads.extra_bytes,
            cache=runtime.step_caches.cache_bytes,
            scratch=runtime.step_caches.scratch_bytes,
        )

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def skippable(self) -> frozenset[int]:
        """Positions of the sublayers that a mask may skip, as in `SkipMask.skipped`."""
        return frozenset(
            2 * layer.index + bit
            for layer in self.layers
            for bit, kind in enumerate(KINDS)
            if layer.branches(kind)
        )

    @property
    def unskippable(self) -> frozenset[int]:
        """Positions of the other sublayers, which run whatever a mask says."""
        return frozenset(range(2 * self.depth)) - self.skippable

    @property
    def keeps_states(self) -> bool:
        """Whether layers keep states of a text that cannot be rewound by position."""
        return any(layer.cached.states or layer.cached.unknown for layer in self.layers)

    @property
    def keeps_own_cache(self) -> bool:
        """Whether it is known to the model only what its cache holds (see `OwnCache`)."""
        return any(layer.cached.unknown for layer in self.layers)

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model can embed."""
        embedding = self.model.get_input_embeddings()
        # Packed weights may have another shape.
        return int(getattr(embedding, "num_embeddings", embedding.weight.shape[0]))

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """`sha256:…` over tokens of the tokenizer; None without a tokenizer."""
        return None if self.tokenizer is None else tokenizer_fingerprint(self.tokenizer)

    @property
    def architecture(self) -> str:
        """Class name of the model, such as `LlamaForCausalLM`."""
        return type(self.model).__name__

    @property
    def device(self) -> torch.device:
        """Where input ids must be."""
        return input_device(self.model)

    @property
    def dtype(self) -> str:
        """`float32`, `bfloat16`, …"""
        return str(self.model.dtype).removeprefix("torch.")
