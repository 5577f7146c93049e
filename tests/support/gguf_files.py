"""Writes tiny Llama models as GGUF files, as llama.cpp's converter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from support.tiny import END

gguf = pytest.importorskip("gguf")

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def write_gguf(
    path: Path, model: Any, architecture: str = "llama", without: str = "", **metadata: str
) -> Path:
    """The model, with a byte-level tokenizer of its vocabulary's size.

    Args:
        architecture: what the file says that it holds.
        without: name of a weight that is left out.
        metadata: more keys with text values, `__` for a dot.
    """
    writer = gguf.GGUFWriter(str(path), architecture)
    _write_config(writer, model.config)
    _write_tokenizer(writer, model.config.vocab_size)
    for key, value in metadata.items():
        writer.add_string(f"{architecture}.{key.replace('__', '.')}", value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    kept = {name: weight for name, weight in model.state_dict().items() if name != without}
    for name, weight in kept.items():
        stored = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(stored, _permuted(name, weight, model.config).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    """Printable characters, a pair of them, and the end-of-text token."""
    tokens = [*(chr(33 + i) for i in range(size - 2)), '!"', END]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (size - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(size - 1)
    writer.add_eos_token_id(size - 1)
    writer.add_chat_template(TEMPLATE)


def _permuted(name: str, weight: Tensor, config: Any) -> Tensor:
    """llama.cpp stores the two halves of each query and key head interleaved."""
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }.get(name.split(".")[-2])
    if heads is None:
        return weight
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape).contiguous()


def cut(path: Path, share: float) -> Path:
    """The file without its end, written beside it."""
    data = path.read_bytes()
    shorter = path.with_name(f"cut-{path.name}")
    shorter.write_bytes(data[: int(len(data) * share)])
    return shorter
