"""Tiny random models and a byte-level tokenizer, made in memory."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from skipopt.models.target import Target
from skipopt.runtime.load import make_target

VOCABULARY = 64
END = "<|endoftext|>"


def tiny_llama(
    layers: int = 3,
    vocabulary: int = VOCABULARY,
    context: int = 256,
    gain: float = 1.0,
    seed: int = 0,
    width: int = 32,
) -> Any:
    """A random Llama; the larger `gain` is, the more skipping a sublayer changes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 3 // 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return _randomized(LlamaForCausalLM(config), gain, seed)


def tiny_gpt2(layers: int = 3, context: int = 64, gain: float = 1.0, seed: int = 0) -> Any:
    """A random GPT-2. Its positions are learned: a step beyond the context is an index error."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=layers,
        n_head=4,
        n_positions=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return _randomized(GPT2LMHeadModel(config), gain, seed)


@torch.no_grad()
def _randomized(model: nn.Module, gain: float, seed: int) -> nn.Module:
    """Standard normal embeddings, matrices that scale their input by `gain`, unchanged norms."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            noise = torch.randn(parameter.shape, generator=generator)
            embeds = "embed" in name or "wte" in name
            # GPT-2 stores matrices transposed; both dimensions are of similar size.
            parameter.copy_(noise if embeds else gain * noise / parameter.shape[-1] ** 0.5)
    return model.eval()


def tiny_target(model: Any = None, tokenizer: Any = None, runtime: str = "eager") -> Target:
    """A target on an eager runtime by default, so that no kernel timing decides a test."""
    return make_target(tiny_llama() if model is None else model, tokenizer, runtime=runtime)


def tiny_prompts(
    count: int, shortest: int = 4, longest: int = 9, vocabulary: int = VOCABULARY
) -> list[list[int]]:
    rng = Random(0)
    sizes = [rng.randint(shortest, longest) for _ in range(count)]
    return [[rng.randrange(vocabulary) for _ in range(size)] for size in sizes]


def byte_tokenizer() -> Any:
    """A tokenizer with one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


@torch.inference_mode()
def hf_greedy(target: Target, prompt: list[int], count: int, eos: Any = None) -> list[int]:
    """Greedy continuation by `generate` of transformers."""
    ids = torch.tensor([prompt])
    output = target.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
    )
    continuation: list[int] = output[0, len(prompt) :].tolist()
    return continuation


def save_tokenizer(folder: Path) -> None:
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    make: Any = transformers.PreTrainedTokenizerFast
    make(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
