"""Tiny random models whose rotary embeddings depend on the length of the text."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from support.architectures import BRANCH_GAIN, GROUPED, WINDOW

BORDER = 24
CONTEXT = 48  # of the models with dynamic frequencies

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [3.0, 5.0, 7.0, 9.0],
    "original_max_position_embeddings": BORDER,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
NESTED = {
    **GROUPED,
    "head_dim": 8,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
DEFAULT = {"rope_type": "default", "rope_theta": 10_000.0}


def scaled(rope_type: str, **settings: float) -> dict[str, Any]:
    """A type with fixed frequencies; its border changes nothing."""
    return {
        "rope_type": rope_type,
        "rope_theta": 10_000.0,
        "factor": 4.0,
        **settings,
    }


RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama longrope": ("LlamaConfig", {**GROUPED, "rope_parameters": LONGROPE}),
    "phi3 longrope": (
        "Phi3Config",
        {
            **GROUPED,
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": BORDER,
        },
    ),
    "phimoe longrope": (
        "PhimoeConfig",
        {
            **GROUPED,
            "rope_parameters": {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.4},
            "num_local_experts": 4,
        },
    ),
    "gemma3 longrope": (
        "Gemma3TextConfig",
        {
            **NESTED,
            "rope_parameters": {"sliding_attention": DEFAULT, "full_attention": LONGROPE},
        },
    ),
    "llama dynamic": (
        "LlamaConfig",
        {**GROUPED, "max_position_embeddings": CONTEXT, "rope_parameters": DYNAMIC},
    ),
    "gemma3 dynamic": (
        "Gemma3TextConfig",
        {
            **NESTED,
            "max_position_embeddings": CONTEXT,
            "rope_parameters": {"sliding_attention": DEFAULT, "full_attention": DYNAMIC},
        },
    ),
    "llama yarn": (
        "LlamaConfig",
        {
            **GROUPED,
            "rope_parameters": scaled("yarn", original_max_position_embeddings=BORDER),
        },
    ),
    "llama llama3": (
        "LlamaConfig",
        {
            **GROUPED,
            "rope_parameters": scaled(
                "llama3",
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=BORDER,
            ),
        },
    ),
    "llama linear": ("LlamaConfig", {**GROUPED, "rope_parameters": scaled("linear")}),
}


def build(name: str) -> Any:
    """A float32 model in evaluation mode, with the same weights every time."""
    kind, settings = RECIPES[name]
    config = getattr(transformers, kind)(**settings)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn_like(parameter)
                parameter.copy_(BRANCH_GAIN * noise / parameter.shape[-1] ** 0.5)
    return model.eval()
