"""Where the weights of a model lie: in one place, spread over several, or out of memory.

accelerate spreads a model by hooks that bring activations to weights, or weights out of memory or
from disk for each use. Knows nothing of kernels, or of what is decoded.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from skipopt.errors import UsageError

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential", "disk")


def read_device_map(device_map: Any) -> Any:
    """The map as transformers takes it: it knows no word for "all on disk".

    Raises:
        UsageError: a word that is neither a strategy nor a device, or no accelerate to follow it.
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
    """Why steps must run through the modules as they are; None where they need not.

    Neither packed copies nor recorded steps go through the hooks that move weights and
    activations about.
    """
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        return "weights are offloaded: each use fetches them anew"
    device_map = getattr(model, "hf_device_map", None) or {}
    places = sorted({str(place) for place in device_map.values()})
    if len(places) > 1:
        return f"weights are spread over {', '.join(places)}"
    return None
