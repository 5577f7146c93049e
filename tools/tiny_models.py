"""A tiny random model of any causal-LM type that transformers registers.

The type's own config class is asked for its defaults, and every size among them is made small.
Kinds of layers stay: a tiny model has one layer of each kind that the default has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

VOCABULARY = 96
WINDOW = 8  # of sliding windows and chunks
DEPTH = 4  # fewest layers
GAIN = 1.4  # 1 keeps a matrix's output as large as its input
MOST_PARAMETERS = 8_000_000
PARTS = ("text_config", "rope_parameters")  # settings that are given in part
ENDED = ("qwen4_exp", "qwen4_exp_text")  # an end of text is part of what they embed
DECODERS = ("musicgen", "musicgen_melody")  # their class for text is that of a part

# The first pattern that is found in a setting's name says how large it is at most.
SIZES: tuple[tuple[str, int], ...] = (
    (r"^pad_(token_id|index)$|decoder_start_token_id", 0),
    (r"^bos_(token_id|index)$", 1),
    (r"_token_id$|_token_index$|^(mask|unk)_index$", 90),
    (r"^index_topk$", 6),
    (r"^index_n_heads$|^index_head_dim$", 16),  # with few, scores are 0, and the largest is chance
    (r"vocab|^n_langs$", VOCABULARY),
    (r"max_position|n_positions|n_ctx|max_seq_len|max_length|target_positions|source_pos", 128),
    (r"context_length|max_distance|rel_extent", 128),
    (r"^(num_)?(kv_shared|nextn_predict|lstm|residual|dense)_layers|lstm_layers|next", 1),
    (r"first_k_dense|interval|period|offset|_per_stack|every_n|max_window_layers", 1),
    (r"layers$|^n_layers?$|^depth$|num_blocks$", DEPTH),
    (r"^n_mamba_heads|^mamba_n(um)?_heads|^linear_num_heads", 8),
    (r"kv_heads|key_value_heads|kv_n_heads|num_query_groups|num_key_heads", 2),
    (r"heads$|^n_head$|heads_per_layer", 4),
    (r"^qk_head_dim$", 16),
    (r"head_dim|d_kv|kv_channels|head_size|d_head|dim_head|headdim|rotary_dim", 8),
    (r"rank$", 16),
    (r"n_group$|topk_group|expert_group", 1),
    (r"per_tok|top_?k|moe_k$|zero_expert", 2),
    (r"shared_experts$", 1),
    (r"experts$|expert_num$", 4),
    (r"window|chunk_size|chunk_length|local_attention", WINDOW),
    (r"moe_intermediate|expert_ffn|expert_intermediate|experts_intermediate", 16),
    (r"intermediate|ffn|dff|d_ff|dim_ff|feed_forward|mlp_dim|inner", 48),
    (r"state_size|d_state", 8),
    (r"hidden|d_model|n_embd|embd|emb_dim|embed_dim|embedding|dim_model|width|_dim$|_size$", 32),
    (r"channels|features?$|filters", 32),
)


def tiny_model(model_type: str, **settings: Any) -> Any:
    """A float32 model in evaluation mode, with the same weights every time.

    No token ends a text, except where the type cannot be without one.

    Args:
        settings: what its config has otherwise than that of `tiny_config`.

    Raises:
        ValueError: the type's config class has no defaults of which a small model can be made.
    """
    with torch.device("meta"):
        sizes = {
            name: each.numel() for name, each in _built(model_type, settings).named_parameters()
        }
    if (count := sum(sizes.values())) > MOST_PARAMETERS:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(f"a tiny {model_type} has {count:,} parameters, most in {largest}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _built(model_type, settings)
        randomize(model)
    model.generation_config.eos_token_id = None
    if model_type not in ENDED:
        model.config.eos_token_id = None
    return model.eval()


def _built(model_type: str, settings: Mapping[str, Any]) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = tiny_config(model_type, settings)
    if model_type not in DECODERS:
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model_class = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])
    return model_class._from_config(config, dtype=torch.float32)


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Random matrices of gain `GAIN`; biases and norms are perturbed."""
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim > 1:
            parameter.copy_(GAIN * noise / parameter.shape[-1] ** 0.5)
        else:
            parameter.add_(0.1 * noise)


def causal_types() -> list[str]:
    """The types that transformers builds with `AutoModelForCausalLM`, in alphabetical order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str, more: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The config of the type, with small sizes; those of `SETTINGS` by hand, and more."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    by_hand = SETTINGS.get(model_type, {})
    defaults = config_class(**by_hand.get("defaults", {}))
    settings = small(defaults)
    for name, value in by_hand.get("defaults", {}).items():
        settings[name] = {**value, **settings.get(name, {})}
    for name, value in by_hand.items():
        settings[name] = {**settings.get(name, {}), **value} if name in PARTS else value
    settings.pop("defaults", None)
    if getattr(defaults, "is_decoder", True) is False:
        settings["is_decoder"] = True  # an encoder by default
    config = config_class(**{**settings, **more})
    return config.decoder if model_type in DECODERS else config


def small(config: Any) -> dict[str, Any]:
    """Those settings of a config that a small model has otherwise, as keyword arguments."""
    from transformers import PreTrainedConfig

    values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, PreTrainedConfig):
            found[name] = small(value) | {"model_type": value.model_type}
        elif isinstance(value, int) and not isinstance(value, bool):
            found[name] = _small_size(name, value)
        elif _is_numbers(value) and re.search("intermediate_size|heads", name):
            found[name] = [_small_size(name, each) for each in value]
    depth = getattr(config, "num_hidden_layers", None)
    if isinstance(depth, int) and depth > 1:
        kept = _kept_layers(values, depth)
        lists = {name: found.get(name, value) for name, value in _per_layer(values, depth)}
        found |= {name: [value[i] for i in kept] for name, value in lists.items()}
        found |= {
            name: [each for each in value if each < len(kept)] or [1]
            for name, value in values.items()
            if _is_layer_numbers(name, value)
        }
        if (name := config.attribute_map.get("num_hidden_layers", "num_hidden_layers")) in values:
            found[name] = len(kept)
    for name in ("eos_token_id", "forced_eos_token_id"):
        if values.get(name) is not None:
            found[name] = None
    if values.get("kv_lora_rank") and "num_key_value_heads" in found:
        found["num_key_value_heads"] = found["num_attention_heads"]  # keys of all heads are made
    return {name: value for name, value in found.items() if value != values.get(name)}


def _small_size(name: str, value: int) -> int:
    size = next((size for pattern, size in SIZES if re.search(pattern, name)), value)
    return min(size, value)


def _per_layer(values: Mapping[str, Any], depth: int) -> Iterable[tuple[str, Any]]:
    """The settings that have one value for each layer."""
    return [
        (name, value)
        for name, value in values.items()
        if isinstance(value, list | tuple)
        and len(value) == depth
        and not _is_layer_numbers(name, value)
    ]


def _is_layer_numbers(name: str, value: Any) -> bool:
    """Whether the setting is a list of some of the layers."""
    named = re.search("layers$|idxs$|layer_ids$|indexes$|indices$", name) is not None
    return named and _is_numbers(value) and sorted(set(value)) == list(value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(each) is int for each in value)


def _kept_layers(values: Mapping[str, Any], depth: int) -> list[int]:
    """Layers of every kind, the last one among them, and at least `DEPTH` where there are."""
    rows = list(zip(*(value for _, value in _per_layer(values, depth)), strict=True))
    kinds = [str(row) for row in rows] or ["one"] * depth
    kept = {kinds.index(kind) for kind in kinds} | {depth - 1}
    for layer in range(depth):
        if len(kept) < DEPTH:
            kept.add(layer)
    return sorted(kept)


INDEXER = {
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "eos_token_id": 90,
}

SLIDING_LAYERS = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
    "head_dim": 16,
}

# What cannot be read off the defaults, by type. `defaults` are given to the class that is asked
# for its defaults.
SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "blenderbot": {"encoder_layers": DEPTH, "decoder_layers": DEPTH},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
    },
    "dbrx": {"defaults": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0}}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "doge": {"keep_window_size": 128},  # of equal values, as those of equal tokens, chance decides
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note": {"text_config": SLIDING_LAYERS},
    "dots3_note_text": SLIDING_LAYERS,
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma": {"tie_word_embeddings": False},  # it would repeat the last token
    "gemma3n": {"vision_config": {"architecture": "test_efficientnet", "hidden_size": 32}},
    "gemma4_assistant": {
        "defaults": {
            "text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
        },
    },
    "gemma4_text": {"num_kv_shared_layers": 1},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "hrm_text": {"num_hidden_layers": 8, "num_layers_per_stack": 1, "H_cycles": 2, "L_cycles": 3},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "full_attn_idxs": [1, 3]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minicpm3": {"scale_emb": 1},  # of 12, and sublayers would hardly matter
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16]},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},  # inner sizes are multiples of 64
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "time_step_min": 1e-9,  # it limits steps of a text that is read at once, and no others
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "num_key_value_heads": 4,
        "attention_hidden_size": 64,
    },
}
