"""Checkpoints in the formats of GPTQ and AWQ: eight 4-bit integers in each int32."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

GROUP = 32  # inputs that share a scale
IN_ORDER = range(8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SETTINGS: dict[str, dict[str, Any]] = {
    "gptq": {"desc_act": False, "sym": True, "checkpoint_format": "gptq"},
    "awq": {"version": "gemm", "zero_point": True},
}


def save_int4(model: Any, method: str, folder: Path) -> None:
    """Save `model` with the linear layers of its decoder quantized as `method` has it.

    Args:
        method: `gptq` or `awq`.
    """
    model = model.half()
    model.save_pretrained(folder)
    kept = dict(model.state_dict())
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "layers" in name:
            del kept[f"{name}.weight"]
            stored = QUANTIZE[method](layer.weight.detach().float())
            kept |= {f"{name}.{part}": values for part, values in stored.items()}
    contiguous = {name: values.contiguous() for name, values in kept.items()}
    save_file(contiguous, folder / "model.safetensors", {"format": "pt"})
    settings = {"quant_method": method, "bits": 4, "group_size": GROUP} | SETTINGS[method]
    write_quantization_config(folder, settings)


def write_quantization_config(folder: Path, settings: dict[str, Any]) -> None:
    """Write into a saved model's config that it is quantized."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))


def gptq(weight: Tensor) -> dict[str, Tensor]:
    """Symmetric quantization; zero points are stored minus one. `weight` is (out, in)."""
    groups = weight.T.unflatten(0, (-1, GROUP))  # (groups, GROUP, out)
    scale = (groups.abs().amax(1) / 7).half()
    zero = torch.full_like(scale, 8).int()
    numbers = _numbers(groups, scale, zero)
    return {
        "qweight": _packed(numbers, 0, IN_ORDER),
        "qzeros": _packed(zero - 1, 1, IN_ORDER),
        "scales": scale,
        "g_idx": (torch.arange(len(numbers)) // GROUP).int(),
    }


def awq(weight: Tensor) -> dict[str, Tensor]:
    """Zero points per group, eight outputs interleaved. `weight` is (out, in)."""
    groups = weight.T.unflatten(0, (-1, GROUP))
    low, high = groups.amin(1), groups.amax(1)
    scale = ((high - low) / 15).half()
    zero = (-low / scale).round().clamp(0, 15).int()
    return {
        "qweight": _packed(_numbers(groups, scale, zero), 1, AWQ_ORDER),
        "qzeros": _packed(zero, 1, AWQ_ORDER),
        "scales": scale,
    }


QUANTIZE = {"gptq": gptq, "awq": awq}


def _numbers(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Integers from 0 to 15, shape (in, out)."""
    numbers = (groups / scale[:, None]).round() + zero[:, None]
    return numbers.clamp(0, 15).int().flatten(0, 1)


def _packed(numbers: Tensor, dim: int, order: Sequence[int]) -> Tensor:
    """Eight numbers along `dim` in each int32; the first of `order` is in the lowest bits."""
    eights = numbers.movedim(dim, -1).unflatten(-1, (-1, 8))[..., list(order)].long()
    words = (eights << (4 * torch.arange(8))).sum(-1)
    return torch.where(words < 1 << 31, words, words - (1 << 32)).int().movedim(-1, dim)
