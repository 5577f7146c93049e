"""Device maps: a model on one device, spread over several, or offloaded to memory or disk.

accelerate spreads a model with hooks, which move activations to the weights' device, or load
offloaded weights for each use.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from skipopt.errors import UsageError

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential", "disk")


def read_device_map(device_map: Any) -> Any:
    """The map as transformers takes it, which has no name for "all on disk".

    Raises:
        UsageError: a name that is neither a strategy nor a device, or accelerate is not installed.
    """
    if find_spec("accelerate") is None:
        raise UsageError(
            "device_map needs the package accelerate, which is not installed",
            hint="pip install 'skipopt[large]'",
        )
    if isinstance(device_map, str) and device_map not in STRATEGIES and not _is_device(device_map):
        raise UsageError(
            f"there is no device map {device_map!r}",
            hint=f"use one of {', '.join(STRATEGIES)}, or a device",
        )
    return {"": "disk"} if device_map == "disk" else device_map


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def eager_only_reason(model: nn.Module) -> str | None:
    """Why the model can only run through its own modules; None if other runtimes are possible.

    Prepacked weights and captured steps bypass the hooks that move weights and activations.
    """
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        return "weights are offloaded, and loaded again for each use"
    device_map = getattr(model, "hf_device_map", None) or {}
    devices = sorted({str(device) for device in device_map.values()})
    if len(devices) > 1:
        return f"weights are spread over {', '.join(devices)}"
    return None


def input_device(model: nn.Module) -> torch.device:
    """Where input ids must be: with the embedding, or where an offloaded embedding is computed."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    device: torch.device = embedding.weight.device
    if device.type != "meta":
        return device
    chosen = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if chosen is None else chosen)
