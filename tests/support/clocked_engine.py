"""An engine with given costs, on a clock set by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.runtime.choice import Choice, likeliest
from skipopt.runtime.prompt_inputs import TOKENS_ONLY
from skipopt.runtime.rope_borders import RopeBorders

DEPTH = 3
FIXED, ATTENTION, MLP, LAYER, MORE = 5.0, 3.0, 2.0, 0.5, 0.75
ROUND, BEGINNING = 0.25, 0.125  # fixed costs of a round and of a draft
NODE = 1.25  # one node of a tree
WHOLE = FIXED + DEPTH * (ATTENTION + MLP + LAYER)


class Bench:
    """An engine and its clock: a step advances the clock by the cost of its sublayers.

    The first rounds take ten times as long; later, one step in `stumble` does. The first step of
    a draft costs a little more.

    Args:
        stumble: one of so many steps is slow.
        grows: cost of an attention sublayer for each token before the current one.
        node: cost of each node of a tree except the current token.
    """

    keeps_hidden = False
    hidden = None
    takes_trees = True
    prompt_inputs = TOKENS_ONLY

    def __init__(
        self, target: Target, stumble: int = 10**9, grows: float = 0.0, node: float = NODE
    ) -> None:
        self.target = target
        self.rope_borders = RopeBorders(target.model)
        self.now = 0.0
        self.position = 0
        self.steps = 0
        self.stumble = stumble
        self.grows = grows
        self.node = node
        self.tree_rows: list[int] = []
        self.drafting = False
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

    @contextmanager
    def draft_mode(self, mask: SkipMask, config: DraftConfig) -> Iterator[None]:
        self.drafting = True
        with skipping(self.target, mask):
            yield
        self.drafting = False

    def step(self, tokens: Sequence[int]) -> Tensor:
        self.steps += 1
        slow = self.prefills <= 1 or self.steps % self.stumble == 0
        cost = self._cost() + MORE * (len(tokens) - 1)
        cost += (BEGINNING if self.after_verify else 0.0) if self.drafting else ROUND
        self.after_verify = not self.drafting
        self.now += (10 if slow else 1) * cost
        self.position += len(tokens)
        return torch.eye(5)[torch.zeros(len(tokens), dtype=torch.long)]

    def step_tree(self, tokens: Sequence[int], depths: Sequence[int], attends: Tensor) -> Tensor:
        self.tree_rows.append(len(tokens))
        assert attends.shape == (len(tokens), len(tokens))
        self.now += (self.node - MORE) * (len(tokens) - 1)
        return self.step(tokens)

    def greedy_step(self, tokens: Sequence[int] | Tensor) -> Choice:
        logits = self.step([int(token) for token in tokens])
        return likeliest(logits)

    def _cost(self) -> float:
        cost = FIXED
        for layer in self.target.layers:
            attention, mlp = layer.attention[0].module, layer.mlp[0].module
            if not _replaced(layer.block.module):
                cost += LAYER
                cost += (ATTENTION + self.grows * self.position) * (not _replaced(attention))
                cost += MLP * (not _replaced(mlp))
        return cost


def _replaced(module: Any) -> bool:
    return "forward" in module.__dict__
