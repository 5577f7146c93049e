"""Settings of every method for the contract suite of drafters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from skipopt.drafting.checkpoints.heads import (
    FeedForwardSettings,
    MedusaSettings,
    make_heads,
    save_heads,
)
from skipopt.drafting.checkpoints.mask_tokens import make_mask_tokens, save_mask_tokens
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.testing.drafters import Case

# For each method: settings for all prompts, then settings for a few prompts only. Words in
# braces are checkpoints: see `untrained_checkpoints`.
SETTINGS: dict[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "layer-skip": (
        "layer-skip:gamma=4",
        *(f"layer-skip:gamma={gamma}" for gamma in (1, 2, 3, 5, 6, 7, 8)),
        "layer-skip:gamma=8:tau=0.3",
        "layer-skip:gamma=6:tau=0.5:adaptive_tau=yes",
        "layer-skip:gamma=3:exit_layer=1",
        "layer-skip:gamma=3:exit_layer=1:reuse_exit_state=yes",
    ),
    "swift": (
        "swift:max_depth=5:tau=0.3:cost_aware=no:score_tokens=4:search_overhead=1.0:auto_disable=no",
        "swift",
        "swift:max_depth=3:siblings=1-2-3-4:tune_mask=no",
    ),
    "prompt-lookup": ("prompt-lookup", "prompt-lookup:gamma=3:max_ngram=1"),
    "suffix": ("suffix", "suffix:gamma=3:factor=9:min_prob=0.6", "suffix:factor=0.2:min_prob=0"),
    "token-recycling": ("token-recycling", "token-recycling:max_rows=3"),
    "jacobi": (
        "jacobi",
        "jacobi:block=1",
        "jacobi:block=4:draft_iterations=2",
        "jacobi:draft_iterations=20",
    ),
    "lookahead": (
        "lookahead",
        "lookahead:window=7:ngram=5:guesses=7",
        "lookahead:window=1:ngram=2:guesses=1",
        "lookahead:window=2:ngram=6:prompt_pool=yes",
    ),
    "blockwise": (
        "blockwise:checkpoint={ffn}:min_path_prob=0.0",
        "blockwise:checkpoint={medusa}:max_nodes=9:min_path_prob=0.0",
        "blockwise:checkpoint={ffn}",
    ),
    "spec-drafter": (
        "spec-drafter:checkpoint={whole}:min_path_prob=0.0",
        "spec-drafter:checkpoint={skipped}:min_path_prob=0.0:max_nodes=7",
        "spec-drafter:checkpoint={whole}:fused=yes:min_path_prob=0.0",
        "spec-drafter:checkpoint={following}:fused=yes:min_path_prob=0.0:max_nodes=2",
    ),
    "rsd-c": ("rsd-c", "rsd-c:branching=3-2", "rsd-c:branching=1-1-1-1", "rsd-c:tau=0.4"),
    "rsd-s": ("rsd-s", "rsd-s:width=2:depth=5", "rsd-s:width=9:depth=2:tau=0.4"),
    "cascade": (
        "cascade:auto_disable=no",
        "cascade",
        "cascade:recycle=yes:auto_disable=no",
        "cascade:exit_layer=1:max_copy=3:gamma=2:tau=0.3",
    ),
}


CHECKPOINTS = ("ffn", "medusa", "whole", "following", "skipped")


def untrained_checkpoints(target: Target, folder: Path) -> dict[str, str]:
    """Untrained heads and mask tokens of this model, by the words of `SETTINGS`."""
    names = {word: str(folder / f"{word}.safetensors") for word in CHECKPOINTS}
    for settings in (FeedForwardSettings(3, 8), MedusaSettings(3, 1)):
        heads = make_heads(settings, target)
        scatter(heads, 0.3)
        save_heads(names[settings.shape], heads, target, {})
    depth = target.depth
    for word, rank, body in (
        ("whole", 0, SkipMask.empty(depth)),
        ("following", 2, SkipMask.empty(depth)),
        ("skipped", 0, SkipMask.of(depth, [1])),
    ):
        tokens = make_mask_tokens(target, 3, rank, body)
        scatter(tokens, 1.0)
        save_mask_tokens(names[word], tokens, target, {})
    return names


def scatter(module: nn.Module, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = size * torch.randn(parameter.shape, generator=generator)


class Bench:
    """A target with a mask whose drafts are often wrong, and with untrained checkpoints."""

    def __init__(self, target: Target, folder: Path, gamma: int = 4) -> None:
        self.target = target
        self.profile = Profile.by_hand(target, attention=[1], gamma=gamma)
        self._names = untrained_checkpoints(target, folder)

    def case(self, method: str) -> Case:
        return Case(self.target, method.format(**self._names), self.profile)
