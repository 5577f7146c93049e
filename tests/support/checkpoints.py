"""Heads and mask tokens with random weights."""

from __future__ import annotations

import torch

from skipopt.drafting.checkpoints.heads import (
    FeedForwardSettings,
    Heads,
    HeadSettings,
    MedusaSettings,
    make_heads,
)
from skipopt.drafting.checkpoints.mask_tokens import (
    MaskTokens,
    make_mask_tokens,
)
from skipopt.masks import SkipMask
from skipopt.models.target import Target

SETTINGS = [FeedForwardSettings(3, units=8), MedusaSettings(3, blocks=2)]


BODY = SkipMask.of(3, attention=[1], mlp=[0, 2])


def random_heads(settings: HeadSettings, target: Target, seed: int = 0) -> Heads:
    """Heads with random weights that float16 represents exactly."""
    heads = make_heads(settings, target)
    generator = torch.Generator().manual_seed(seed)
    for parameter in heads.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = (noise / 8).half().float()
    return heads


def random_tokens(target: Target, rank: int = 4, body: SkipMask = BODY) -> MaskTokens:
    tokens = make_mask_tokens(target, 3, rank, body)
    generator = torch.Generator().manual_seed(0)
    for parameter in tokens.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).half().float()
    return tokens
