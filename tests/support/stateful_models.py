"""Tiny random models with recurrent layers, convolutions or sparse attention."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

VOCABULARY = 96
GAIN = 1.4  # 1 keeps a matrix's output as large as its input
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LINEAR_AND_FULL = ["linear_attention", "full_attention"] * 2
CONVOLUTION_AND_FULL = ["conv", "full_attention"] * 2
DELTA_NET = {
    **SMALL,
    "head_dim": 16,
    "layer_types": LINEAR_AND_FULL,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS = {
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
MAMBA2_LAYERS = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}
PURE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "state_size": 8,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LATENT = {
    **SMALL,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
INDEXED_ATTENTION = {
    **LATENT,
    "q_lora_rank": 16,
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
    "index_topk": 6,
    "index_head_dim": 16,
    "index_n_heads": 16,  # with few, scores are often 0, and which are largest is chance
}

Recipe = tuple[str, dict[str, Any]]  # configuration class, its settings

STATEFUL: dict[str, Recipe] = {
    "qwen3_next": ("Qwen3NextConfig", {**DELTA_NET, **EXPERTS}),
    "qwen3_5": ("Qwen3_5TextConfig", DELTA_NET),
    "qwen3_5_moe": ("Qwen3_5MoeTextConfig", {**DELTA_NET, **EXPERTS}),
    "olmo_hybrid": ("OlmoHybridConfig", {**DELTA_NET, "pad_token_id": 0}),
    "lfm2": (
        "Lfm2Config",
        {**SMALL, "layer_types": CONVOLUTION_AND_FULL, "block_multiple_of": 16},
    ),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        {**SMALL, **EXPERTS, "layer_types": CONVOLUTION_AND_FULL, "num_dense_layers": 1},
    ),
    "lfm3": (
        "Lfm3Config",
        {**SMALL, "layer_types": CONVOLUTION_AND_FULL, "head_dim": 16, "sliding_window": 8},
    ),
    "falcon_h1": ("FalconH1Config", {**SMALL, **MAMBA2_LAYERS, "mamba_d_ssm": 64}),
    "bamba": ("BambaConfig", {**SMALL, **MAMBA2_LAYERS, "attn_layer_indices": [1, 3]}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        {
            **SMALL,
            **MAMBA2_LAYERS,
            "layer_types": LINEAR_AND_FULL,
            "num_local_experts": 4,
            "shared_intermediate_size": 16,
        },
    ),
    "jamba": (
        "JambaConfig",
        {
            **SMALL,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
    ),
    "nemotron_h": (
        "NemotronHConfig",
        {
            **{name: value for name, value in SMALL.items() if name != "num_hidden_layers"},
            "layers_block_type": ["mamba", "moe", "attention", "mlp"],
            "head_dim": 8,
            "ssm_state_size": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
            "n_routed_experts": 4,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
            "use_mamba_kernels": False,
        },
    ),
    "kimi_linear": (
        "KimiLinearConfig",
        {
            **LATENT,
            "q_lora_rank": None,
            "layer_types": LINEAR_AND_FULL,
            "num_local_experts": 4,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
        },
    ),
    "bailing_hybrid": (
        "BailingHybridConfig",
        {
            **LATENT,
            "layer_types": LINEAR_AND_FULL,
            "num_local_experts": 4,
            "first_k_dense_replace": 1,
            "head_dim": 8,
        },
    ),
    "inkling": (
        "InklingTextConfig",
        {
            **SMALL,
            **EXPERTS,
            "head_dim": 8,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "sliding_window_size": 8,
            "d_rel": 4,
            "rel_extent": 64,
            "layer_types": ["hybrid_sliding", "hybrid"] * 2,
            "mlp_layer_types": ["dense", "sparse"] * 2,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "logits_mup_width_multiplier": 1.0,
        },
    ),
    "mamba": ("MambaConfig", PURE),
    "mamba2": ("Mamba2Config", {**PURE, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "falcon_mamba": ("FalconMambaConfig", PURE),
}
INDEXED: dict[str, Recipe] = {
    "deepseek_v32": ("DeepseekV32Config", INDEXED_ATTENTION),
    "glm_moe_dsa": ("GlmMoeDsaConfig", INDEXED_ATTENTION),
    "axk2": ("AXK2Config", INDEXED_ATTENTION),
}
# Later layers read what the attention of earlier ones computes.
SHARING: dict[str, Recipe] = {
    "glm_moe_dsa": (
        "GlmMoeDsaConfig",
        {**INDEXED_ATTENTION, "indexer_types": ["full", "shared", "full", "shared"]},
    ),
}


def stateful_model(name: str) -> Any:
    """A tiny float32 model in evaluation mode, with the same weights every time."""
    return _build({**STATEFUL, **INDEXED}[name])


def sharing_model(name: str) -> Any:
    """The same for a model of `SHARING`."""
    return _build(SHARING[name])


def _build(recipe: Recipe) -> Any:
    class_name, settings = recipe
    config = getattr(transformers, class_name)(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _randomize(model)
    return model.eval()


@torch.no_grad()
def _randomize(model: nn.Module) -> None:
    """Random matrices of gain GAIN; biases, norms and decay rates are perturbed."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim > 1 and not name.endswith("A_log"):
            parameter.copy_(GAIN * noise / parameter.shape[-1] ** 0.5)
        else:
            parameter.add_(0.1 * noise)
