"""Prompts of a target and its plain continuations of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skipopt.decoding.api import generate
from skipopt.detokenizer import encode_prompts
from skipopt.measurement.workload import Workload, make_workload
from skipopt.models.target import Target
from skipopt.prompts import Prompt


def encode(target: Target, prompts: Iterable[Prompt]) -> list[list[int]]:
    """Token ids of each prompt; chats go through the model's chat template."""
    return encode_prompts(target.tokenizer, prompts)


def continuation(
    target: Target, prompt: Sequence[int], tokens: int, temperature: float = 0.0
) -> list[int]:
    """The new tokens of plain decoding, greedy unless a temperature is given."""
    found = generate(target, prompt, max_new_tokens=tokens, temperature=temperature)
    return [token.id for token in found]


def workload_of(target: Target, prompts: Iterable[Prompt], tokens: int) -> Workload:
    """The prompts with their continuations, repetition cut off, and their categories."""
    every = list(prompts)
    return make_workload(
        encode(target, every),
        lambda prompt: continuation(target, prompt, tokens),
        [prompt.category for prompt in every],
    )
