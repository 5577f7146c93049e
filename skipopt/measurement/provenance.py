"""Records of the machine and of the prompts that a result was measured on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from skipopt.memory_usage import Memory

if TYPE_CHECKING:
    from skipopt.models.target import Target


def environment_of(target: Target) -> dict[str, Any]:
    """Versions, device, dtype, runtime and threads of the target, and its current memory usage."""
    import torch

    from skipopt.environment import environment_record

    record = environment_record(
        str(target.device), target.dtype, target.runtime.name, torch.get_num_threads()
    )
    return {**record, "memory": asdict(target.memory)}


def as_texts(environment: Mapping[str, Any]) -> dict[str, str]:
    """The entries of an environment as text for the terminal and for tables."""
    texts = {key: str(value) for key, value in environment.items()}
    if (memory := environment.get("memory")) is not None:
        texts["memory"] = str(Memory(**memory))
    return texts


def conditions_of(target: Target) -> dict[str, Any]:
    """The entries of the environment that affect speed. Fast: it does not run git."""
    import torch

    from skipopt.environment import device_name

    return {
        "device": device_name(str(target.device)),
        "dtype": target.dtype,
        "threads": torch.get_num_threads(),
        "runtime": target.runtime.name,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The entries of `now` that differ, as `KEY was X, is Y`, separated by `; `; may be empty."""
    return "; ".join(f"{k} was {before[k]}, is {v}" for k, v in now.items() if before[k] != v)


def hash_of(prompts: Sequence[Sequence[int]]) -> str:
    """`sha256:…` of the token ids; tells whether two results used the same prompts."""
    text = json.dumps([list(prompt) for prompt in prompts])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
