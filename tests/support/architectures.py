"""Tiny random models whose layers, masks or modules differ in form.

Weights are random but large enough that every sublayer matters. Depth, windows and heads are as
small as each architecture allows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

VOCABULARY = 96
WINDOW = 8  # sliding window; texts in the suite are longer
BRANCH_GAIN = 1.4  # 1 keeps a matrix's output as large as its input

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 16}
CHUNKED_AND_FULL = ["chunked_attention", "full_attention", "chunked_attention"]
SLIDING_AND_FULL = ["sliding_attention", "full_attention", "sliding_attention"]
OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "word_embed_proj_dim": 32,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 1,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": None,
    "eos_token_id": None,
}
FALCON = {**SMALL, "new_decoder_architecture": False, "ffn_hidden_size": 48}
GEMMA4 = {
    **WIDE_HEADS,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": WINDOW,
    "global_head_dim": 16,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
}

# name: configuration class, its settings
Recipe = tuple[str, dict[str, Any]]

SKIPPABLE: dict[str, Recipe] = {
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": WINDOW}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen2 sliding": (
        "Qwen2Config",
        {**GROUPED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", WIDE_HEADS),
    "gemma2": (
        "Gemma2Config",
        {**WIDE_HEADS, "sliding_window": WINDOW, "attn_implementation": "eager"},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {**WIDE_HEADS, "sliding_window": WINDOW, "layer_types": SLIDING_AND_FULL},
    ),
    "phi3": ("Phi3Config", GROUPED),
    "gpt_neox": ("GPTNeoXConfig", {**SMALL, "use_parallel_residual": True}),
    "gpt_neox sequential": ("GPTNeoXConfig", {**SMALL, "use_parallel_residual": False}),
    "gpt2": ("GPT2Config", GPT2),
    "opt": ("OPTConfig", {**OPT, "do_layer_norm_before": True}),
    "falcon": ("FalconConfig", {**FALCON, "parallel_attn": True, "multi_query": True}),
    "falcon sequential": (
        "FalconConfig",
        {**FALCON, "parallel_attn": False, "multi_query": False, "bias": True},
    ),
    "starcoder2": ("Starcoder2Config", {**GROUPED, "sliding_window": WINDOW}),
    "olmo2": ("Olmo2Config", GROUPED),
    "stablelm": ("StableLmConfig", {**GROUPED, "use_parallel_residual": False}),
    "stablelm parallel": ("StableLmConfig", {**GROUPED, "use_parallel_residual": True}),
    "granite": (
        "GraniteConfig",
        {
            **GROUPED,
            "residual_multiplier": 0.7,
            "embedding_multiplier": 2.0,
            "logits_scaling": 2.0,
        },
    ),
    "llama4": (
        "Llama4TextConfig",
        {
            **WIDE_HEADS,
            "layer_types": CHUNKED_AND_FULL,
            "no_rope_layers": [1, 0, 1],
            "attention_chunk_size": WINDOW,
            "attn_temperature_tuning": False,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "interleave_moe_layer_step": 2,
        },
    ),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
}

# Those whose layers, masks or modules have a form of their own.
FORMS = (
    "llama",
    "qwen2 sliding",
    "gemma3",
    "gpt_neox",
    "gpt2",
    "opt",
    "falcon sequential",
    "llama4",
    "mixtral",
)

OTHERS: dict[str, Recipe] = {
    "opt post-norm": ("OPTConfig", {**OPT, "do_layer_norm_before": False}),
    "bloom": (
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    ),
    "mpt": (
        "MptConfig",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 128},
    ),
    "reformer": (
        "ReformerConfig",
        {
            "vocab_size": VOCABULARY,
            "is_decoder": True,
            "max_position_embeddings": 128,
            "axial_pos_shape": [8, 16],
            "axial_pos_embds_dim": [64, 192],
        },
    ),
    "bert": ("BertConfig", {**SMALL, "is_decoder": True}),
    "bert encoder": ("BertConfig", SMALL),
    "t5": (
        "T5Config",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
        },
    ),
    "gemma4": ("Gemma4TextConfig", {**GEMMA4, "num_kv_shared_layers": 0}),
}


def build(name: str) -> Any:
    """A tiny float32 model in evaluation mode, with the same weights every time."""
    class_name, settings = {**SKIPPABLE, **OTHERS}[name]
    settings = dict(settings)
    implementation = settings.pop("attn_implementation", None)
    config = getattr(transformers, class_name)(**settings)
    make: Callable[..., Any] = transformers.AutoModelForCausalLM.from_config
    if config.is_encoder_decoder:
        make = transformers.AutoModelForSeq2SeqLM.from_config
    options = {"attn_implementation": implementation} if implementation else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(config, dtype=torch.float32, **options)
        _randomize(model)
    return model.eval()


@torch.no_grad()
def _randomize(model: torch.nn.Module) -> None:
    """Random matrices of gain BRANCH_GAIN; biases and norms are perturbed."""
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim > 1:
            parameter.copy_(BRANCH_GAIN * noise / parameter.shape[-1] ** 0.5)
        else:
            parameter.add_(0.1 * noise)
