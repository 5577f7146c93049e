"""What a result says of machine and prompts. Knows nothing of figures."""

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
    """The record of what this process runs the target on, and of what that holds by now."""
    import torch

    from skipopt.environment import environment_record

    record = environment_record(
        str(target.device), target.dtype, target.runtime, torch.get_num_threads()
    )
    return {**record, "memory": asdict(target.memory)}


def as_texts(environment: Mapping[str, Any]) -> dict[str, str]:
    """A record's facts as they are shown; what is held in memory is told in words."""
    texts = {key: str(value) for key, value in environment.items()}
    if (memory := environment.get("memory")) is not None:
        texts["memory"] = str(Memory(**memory))
    return texts


def conditions_of(target: Target) -> dict[str, Any]:
    """Of that record, what every speed depends on; told without asking git."""
    import torch

    from skipopt.environment import device_name

    return {
        "device": device_name(str(target.device)),
        "dtype": target.dtype,
        "threads": torch.get_num_threads(),
        "runtime": target.runtime,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which keys of `now` things were otherwise before, in words; empty where in none."""
    return "; ".join(f"{k} was {before[k]}, is {v}" for k, v in now.items() if before[k] != v)


def hash_of(prompts: Sequence[Sequence[int]]) -> str:
    """`sha256:…` over the token ids, so that two results can be told to be of the same prompts."""
    text = json.dumps([list(prompt) for prompt in prompts])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
