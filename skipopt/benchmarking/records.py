"""What a result says of machine and prompts. Knows nothing of figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipopt.models.target import Target


def environment_of(target: Target) -> dict[str, Any]:
    """The record of what this process runs the target on."""
    import torch

    from skipopt.environment import environment_record

    return environment_record(
        str(target.device), target.dtype, target.runtime, torch.get_num_threads()
    )


def hash_of(prompts: Sequence[Sequence[int]]) -> str:
    """`sha256:…` over the token ids, so that two results can be told to be of the same prompts."""
    text = json.dumps([list(prompt) for prompt in prompts])
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
