"""Configs of published models, and models of those shapes with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

LLAMA_3_1_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
QWEN3_8B = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
SHARED = {"tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "Llama-3.1-8B": {**LLAMA_3_1_8B, **SHARED},
    "Qwen3-8B": {**QWEN3_8B, **SHARED},
}


def random_model(config: Mapping[str, Any], device: torch.device) -> Any:
    """A model whose weights are created on the device in bfloat16, without a float32 copy."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), dtype=torch.bfloat16
        ).eval()
