"""What identifies a loaded model and its tokenizer, and where their texts end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

SAMPLED_VALUES = 64  # of each weight
SAMPLED_TOKENS = 1024
NO_CONTEXT_LIMIT = 1 << 20  # for configurations that state none (ALiBi and the like)


def fingerprint(model: nn.Module) -> str:
    """`sha256:…` over architecture, weight names, shapes and 64 values of each weight.

    Values are rounded to bfloat16 first, so a checkpoint has the same fingerprint in bfloat16 and
    float32 (float16 may differ, since it rounds differently). Offloaded weights are read from the
    hook's store. For quantized weights the stored integers and scales are hashed.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, weight in sorted(stored_weights(model), key=itemgetter(0)):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        for part in _plain_tensors(_materialized(model, name, weight).detach()):
            values = part.flatten()
            step = max(1, values.numel() // SAMPLED_VALUES)
            sample = values[::step][:SAMPLED_VALUES].to("cpu", torch.float32).to(torch.bfloat16)
            digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:32]}"


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """`sha256:…` over the number of tokens and 1,024 of them, evenly spaced."""
    count = len(tokenizer)
    ids = sorted({count * i // SAMPLED_TOKENS for i in range(SAMPLED_TOKENS)}) if count else []
    sample = [count, *tokenizer.convert_ids_to_tokens(ids)]
    return f"sha256:{hashlib.sha256(repr(sample).encode()).hexdigest()[:32]}"


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and saved buffers, offloaded ones included."""
    parts = (part for _, weight in stored_weights(model) for part in _plain_tensors(weight))
    return sum(part.numel() * part.element_size() for part in parts)


def stored_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of all parameters and saved buffers.

    Buffers count because GPTQ and AWQ layers keep their integers there.
    """
    yield from model.named_parameters()
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(path, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def _plain_tensors(weight: Tensor) -> Iterator[Tensor]:
    """The tensor itself, or those inside a subclass (torchao: integers and scales)."""
    if not hasattr(weight, "__tensor_flatten__"):
        yield weight
        return
    for name in weight.__tensor_flatten__()[0]:
        yield from _plain_tensors(getattr(weight, name))


def _materialized(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """The weight itself, or for an offloaded one the values in accelerate's store."""
    if weight.device.type != "meta":
        return weight
    path, _, leaf = name.rpartition(".")
    weights = getattr(getattr(model.get_submodule(path), "_hf_hook", None), "weights_map", None)
    return weights[leaf] if weights is not None else torch.zeros(1)


def eos_ids(model: Any) -> frozenset[int]:
    """End-of-text tokens: those of the generation config, else those of the model config."""
    return next((ids for ids in _eos_ids_by_config(model) if ids), frozenset())


def every_eos_id(model: Any) -> frozenset[int]:
    """End-of-text tokens of the generation config and of the model config together."""
    return frozenset().union(*_eos_ids_by_config(model))


def _eos_ids_by_config(model: Any) -> list[frozenset[int]]:
    configs = (getattr(model, "generation_config", None), model.config)
    values = [getattr(config, "eos_token_id", None) for config in configs]
    lists = [each if isinstance(each, Iterable) else [each] for each in values if each is not None]
    return [frozenset(each) for each in lists]


def context_limit(model: Any) -> int:
    """Most tokens that the model's positions allow."""
    config = model.config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(limit := getattr(config, name, None), int):
            return limit
    return NO_CONTEXT_LIMIT
