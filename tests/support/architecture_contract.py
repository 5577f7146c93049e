"""Masks, forwards and decoding for the contract suite of architectures."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from skipopt.decoding.api import generate_rounds
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round
from support.architectures import VOCABULARY, WINDOW
from support.tiny import hf_greedy

CLOSE = 1e-4


NEW_TOKENS = 40


SHORT = [5, 61, 17, 33]


LONG = [(7 * i * i + 3) % VOCABULARY for i in range(WINDOW + 5)]


@torch.inference_mode()
def logits_of(target: Target, tokens: Sequence[int] = LONG) -> Tensor:
    """Logits without a KV cache, shape (n, V)."""
    output = target.model(input_ids=torch.tensor([tokens]), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


def masks_of(target: Target) -> list[SkipMask]:
    """Four sparse masks, one of which skips the attention of every layer, and two random ones."""
    depth, rng = target.depth, Random(target.architecture)
    tosses = [[rng.randint(0, 1) for _ in range(2 * depth)] for _ in range(2)]
    return [
        SkipMask.of(depth, mlp=[1]),
        SkipMask.of(depth, attention=[0]),
        SkipMask.of(depth, attention=range(depth)),
        SkipMask.of(depth, attention=[1], mlp=[1]),
        *map(SkipMask.from_bits, tosses),
    ]


def forwards(model: nn.Module) -> dict[str, Any]:
    """The `forward` of each module's own `__dict__`, where there is one."""
    own = {name: vars(module) for name, module in model.named_modules()}
    return {name: space["forward"] for name, space in own.items() if "forward" in space}


def greedy(target: Target, prompt: list[int]) -> list[int]:
    return hf_greedy(target, prompt, NEW_TOKENS)


def speculate(target: Target, mask: SkipMask, gamma: int, prompt: list[int]) -> list[Round]:
    profile = Profile.by_hand(target, attention=mask.attention, mlp=mask.mlp, gamma=gamma)
    return list(generate_rounds(target, prompt, profile=profile, max_new_tokens=NEW_TOKENS))
