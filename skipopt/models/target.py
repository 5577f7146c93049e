"""The target: one loaded model with its tokenizer, its self-tested sublayers and its identity.

Knows nothing of masks' origin, of drafting or of speed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.kernels.packed_linear import LinearKernels, choose_kernels
from skipopt.kernels.quantized_linear import QuantizedLinearCache
from skipopt.masks import KINDS
from skipopt.memory_usage import Memory
from skipopt.models.device_map import eager_only_reason
from skipopt.models.sublayers import DecoderLayer, evaluating, find_sublayers, input_device
from skipopt.runtime.step_pool import StepCachePool

SAMPLED_VALUES = 64
CAPTURED_ON = ("cpu", "cuda")
# Runtimes that capture steps, and how often a step runs eagerly before: nobody knows how often it
# will still be run, so by then it has lost about what capturing costs.
PATIENCE = {"auto": 64, "graphs": 0, "compiled": 0}


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
        captures: what was captured of its steps, or why nothing is.
        only_eager: why no other runtime is possible; None where another is.
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
    kernels: LinearKernels
    captures: StepCachePool
    shelf: QuantizedLinearCache
    only_eager: str | None = None

    @property
    def runtime(self) -> str:
        """`graphs`, `compiled`, `packed` or `eager`: how steps are run."""
        if self.captures.refused:
            return self.kernels.name
        return "compiled" if self.captures.compiled else "graphs"

    def changes(self) -> tuple[Hashable, ...] | None:
        """The keys of all that is patched in its layers; None where a patch has none."""
        keys = tuple(patch.key for patch in self.layers[0].applied)
        return None if None in keys else keys

    @property
    def memory(self) -> Memory:
        """What it holds now, in bytes, weights that were offloaded included."""
        parts = (part for _, weight in _weights(self.model) for part in _parts(weight))
        return Memory(
            weights=sum(part.numel() * part.element_size() for part in parts),
            prepacked_weights=self.kernels.extra_bytes,
            fused_weights=self.captures.extra_bytes,
            quantized_weights=self.shelf.extra_bytes,
            cache=self.captures.cache_bytes,
        )

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
    only_eager = eager_only_reason(model)
    replaced = {b.module for layer in layers for kind in KINDS for b in layer.branches(kind)}
    replaced |= {m for layer in layers for kind in KINDS for m in layer.feeders[kind]}
    kernels = choose_kernels(model, replaced, "eager" if only_eager else runtime)
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
        captures=_captures(model, only_eager, runtime),
        shelf=QuantizedLinearCache(model, replaced, kernels.patch),
        only_eager=only_eager,
    )


def _captures(model: Any, only_eager: str | None, runtime: str) -> StepCachePool:
    """Where nothing can be captured, that is known before it is tried."""
    if runtime not in PATIENCE:
        return StepCachePool(refused=f"runtime {runtime} was asked for", wanted=False)
    kind = input_device(model).type
    refused = only_eager or (None if kind in CAPTURED_ON else f"steps are not captured on {kind}")
    return StepCachePool(PATIENCE[runtime], refused, compiled=runtime == "compiled")


def fingerprint(model: nn.Module) -> str:
    """Identity of the weights: architecture, names, shapes and 64 values of each.

    Values are rounded to bfloat16 first, so that loading a checkpoint in bfloat16 or float32 makes
    no difference (float16 may: it rounds elsewhere). Weights that were offloaded to a hook's store
    are read there. Of quantised ones the stored values count, wherever the library keeps them.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, weight in sorted(_weights(model), key=itemgetter(0)):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        for part in _parts(_stored(model, name, weight).detach()):
            values = part.flatten()
            step = max(1, values.numel() // SAMPLED_VALUES)
            sample = values[::step][:SAMPLED_VALUES].to("cpu", torch.float32).to(torch.bfloat16)
            digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:32]}"


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and what is saved beside them: GPTQ and AWQ keep their integers in buffers."""
    yield from model.named_parameters()
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(path, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def _parts(weight: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor of torchao's consists of, scales included."""
    if not hasattr(weight, "__tensor_flatten__"):
        yield weight
        return
    for name in weight.__tensor_flatten__()[0]:
        yield from _parts(getattr(weight, name))


def _stored(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    if weight.device.type != "meta":
        return weight
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
