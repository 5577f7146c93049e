"""The target: one loaded model with its tokenizer, its self-tested sublayers and its identity.

Knows nothing of masks' origin, of drafting or of speed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.masks import KINDS
from skipopt.models.sublayers import DecoderLayer, evaluating, find_sublayers, input_device
from skipopt.packing import Kernels, choose_kernels
from skipopt.quantising import Shelf

SAMPLED_VALUES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A model that can be decoded with, whole or under a mask.

    Attributes:
        model_id: where it came from: a hub id, a folder, `builtin`, or a class name.
        layers: the decoder layers, each proved skippable.
        fingerprint: `sha256:…` over architecture, shapes and sampled weights; the same on every
            device, and in float32 and bfloat16.
        eos_ids: tokens that end a text.
        context_limit: most tokens the positions of the model allow.
        kernels: how linear layers are computed during skipopt's own forwards.
        shelf: quantised copies of them, for drafts that ask for these.
    """

    model: Any
    tokenizer: Any
    model_id: str
    revision: str | None
    layers: tuple[DecoderLayer, ...]
    fingerprint: str
    eos_ids: frozenset[int]
    context_limit: int
    kernels: Kernels
    shelf: Shelf

    @property
    def runtime(self) -> str:
        """`packed` or `eager`."""
        return self.kernels.name

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    @property
    def device(self) -> torch.device:
        return input_device(self.model)

    @property
    def dtype(self) -> str:
        """`float32`, `bfloat16`, …"""
        return str(self.model.dtype).removeprefix("torch.")


def make_target(
    model: Any,
    tokenizer: Any,
    model_id: str | None = None,
    revision: str | None = None,
    runtime: str = "auto",
) -> Target:
    """Prove that `model` can be skipped in, and wrap it. Puts the model in evaluation mode.

    Raises:
        ModelError: not a decoder-only model, or a layer that cannot be skipped.
    """
    with evaluating(model):
        layers = find_sublayers(model)
    model.eval()
    replaced = {b.module for layer in layers for kind in KINDS for b in layer.branches(kind)}
    replaced |= {m for layer in layers for kind in KINDS for m in layer.feeders[kind]}
    kernels = choose_kernels(model, replaced, runtime)
    return Target(
        model=model,
        tokenizer=tokenizer,
        model_id=model_id or type(model).__name__,
        revision=revision,
        layers=layers,
        fingerprint=fingerprint(model),
        eos_ids=_eos_ids(model),
        context_limit=_context_limit(model),
        kernels=kernels,
        shelf=Shelf(model, replaced, kernels.patch),
    )


def fingerprint(model: nn.Module) -> str:
    """Identity of the weights: architecture, names, shapes and 64 values of each parameter.

    Values are rounded to bfloat16 first, so that loading a checkpoint in bfloat16 or float32 makes
    no difference (float16 may: it rounds elsewhere). Parameters that were offloaded to a hook's
    store are read there.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        values = _stored(model, name, parameter).detach().flatten()
        step = max(1, values.numel() // SAMPLED_VALUES)
        sample = values[::step][:SAMPLED_VALUES].to("cpu", torch.float32).to(torch.bfloat16)
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:32]}"


def _stored(model: nn.Module, name: str, parameter: Tensor) -> Tensor:
    if parameter.device.type != "meta":
        return parameter
    path, _, leaf = name.rpartition(".")
    weights = getattr(getattr(model.get_submodule(path), "_hf_hook", None), "weights_map", None)
    return weights[leaf] if weights is not None else torch.zeros(1)


def _eos_ids(model: Any) -> frozenset[int]:
    settings = (getattr(model, "generation_config", None), model.config)
    values = (getattr(s, "eos_token_id", None) for s in settings)
    for value in values:
        if value is not None:
            return frozenset(value if isinstance(value, Iterable) else [value])
    return frozenset()


def _context_limit(model: Any) -> int:
    config = model.config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(limit := getattr(config, name, None), int):
            return limit
    return 1 << 20  # no limit stated (ALiBi and the like)
