"""An engine with given costs, on a clock set by hand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target

DEPTH = 3
FIXED, ATTENTION, MLP, LAYER, MORE = 5.0, 3.0, 2.0, 0.5, 0.75
ROUND, BEGINNING = 0.25, 0.125  # fixed costs of a round and of a draft
NODE = 1.25  # one node of a tree
WHOLE = FIXED + DEPTH * (ATTENTION + MLP + LAYER)


class Bench:
    """Clock and engine in one: a step takes what its sublayers cost.

    The first rounds take ten times as long; later, one step in `stumble` does. A first step after
    a longer one costs a little more.

    Args:
        grows: what an attention costs more for every token before it.
        node: what a node of a tree costs, the current token apart.
    """

    keeps_hidden = False
    hidden = None

    def __init__(
        self, target: Target, stumble: int = 10**9, grows: float = 0.0, node: float = NODE
    ) -> None:
        self.target = target
        self.now = 0.0
        self.position = 0
        self.steps = 0
        self.stumble = stumble
        self.grows = grows
        self.node = node
        self.tree_rows: list[int] = []
        self.after_verify = True
        self.prefills = 0

    def clock(self) -> float:
        return self.now

    def prefill(self, tokens: Sequence[int]) -> None:
        self.prefills += 1
        self.position = len(tokens)

    def rewind(self, position: int) -> None:
        self.position = position

    def commit(self, start: int, kept: Sequence[int]) -> None:
        self.position = start + len(kept)

    def draft_mode(self, mask: SkipMask, config: DraftConfig) -> AbstractContextManager[object]:
        return skipping(self.target, mask)

    def step(self, tokens: Sequence[int]) -> Tensor:
        self.steps += 1
        slow = self.prefills <= 1 or self.steps % self.stumble == 0
        cost, whole = self._cost()
        cost += MORE * (len(tokens) - 1)
        drafting = not whole or self._in_draft()
        cost += (BEGINNING if self.after_verify else 0.0) if drafting else ROUND
        self.after_verify = not drafting
        self.now += (10 if slow else 1) * cost
        self.position += len(tokens)
        return torch.eye(5)[torch.zeros(len(tokens), dtype=torch.long)]

    def step_tree(self, tokens: Sequence[int], depths: Sequence[int], attends: Tensor) -> Tensor:
        self.tree_rows.append(len(tokens))
        assert attends.shape == (len(tokens), len(tokens))
        self.now += (self.node - MORE) * (len(tokens) - 1)
        return self.step(tokens)

    def greedy_step(self, tokens: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        logits = self.step([int(token) for token in tokens])
        return logits.argmax(-1), logits.amax(-1)

    def _in_draft(self) -> bool:
        """Whether the caller is a draft, whose steps look plain where nothing is skipped."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_name != "_chain":
            frame = frame.f_back
        return frame is not None

    def _cost(self) -> tuple[float, bool]:
        cost, whole = FIXED, True
        for layer in self.target.layers:
            attention, mlp = layer.attention[0].module, layer.mlp[0].module
            whole &= not any(map(_replaced, (layer.block.module, attention, mlp)))
            if not _replaced(layer.block.module):
                cost += LAYER
                cost += (ATTENTION + self.grows * self.position) * (not _replaced(attention))
                cost += MLP * (not _replaced(mlp))
        return cost, whole


def _replaced(module: Any) -> bool:
    return "forward" in module.__dict__
