"""Prompts of a target and its plain continuations of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skipopt.bench.workload import Workload, make_workload
from skipopt.decoding.api import generate
from skipopt.detokenizer import encode_prompt
from skipopt.models.target import Target
from skipopt.prompts import Prompt


def encode(target: Target, prompts: Iterable[Prompt]) -> list[list[int]]:
    """Token ids of each prompt."""
    return [encode_prompt(target.tokenizer, prompt.text) for prompt in prompts]


def continuation(target: Target, prompt: Sequence[int], tokens: int) -> list[int]:
    """The new tokens of plain greedy decoding."""
    return [token.id for token in generate(target, prompt, max_new_tokens=tokens)]


def workload_of(target: Target, prompts: Iterable[Prompt], tokens: int) -> Workload:
    """The prompts with their continuations, repetition cut off."""
    return make_workload(encode(target, prompts), lambda p: continuation(target, p, tokens))
