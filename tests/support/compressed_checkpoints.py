"""Checkpoints in the format of compressed-tensors: 8-bit integers, and a scale for each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from support.int4_checkpoints import write_quantization_config

WEIGHTS = {
    "num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False,
    "observer": "minmax",
}  # fmt: skip
SETTINGS = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "format": "int-quantized",
            "weights": WEIGHTS,
            "input_activations": None,
            "output_activations": None,
        }
    },
}


def save_int8(model: Any, folder: Path) -> None:
    """Save `model` with the linear layers of its decoder in 8 bits."""
    model.save_pretrained(folder)
    kept = dict(model.state_dict())
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "layers" in name:
            weight = kept[f"{name}.weight"]
            scale = weight.abs().amax(1, keepdim=True) / 127
            kept[f"{name}.weight"] = (weight / scale).round().to(torch.int8)
            kept[f"{name}.weight_scale"] = scale
    contiguous = {name: values.contiguous() for name, values in kept.items()}
    save_file(contiguous, folder / "model.safetensors", {"format": "pt"})
    write_quantization_config(folder, SETTINGS)
