"""Builds a draft tree level by level with the active draft model.

    with skipping, TreeBuilder(state) as builder:
        logits = builder.run([-1])                # after the current token
        nodes = [builder.add(-1, token) for token in …]
        logits = builder.run(nodes)               # one forward for the whole level

Rows are written behind the committed cache, which is rewound at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.base import DraftState

ROOT = -1  # the current token


class TreeBuilder:
    """A growing tree, and the forwards that it takes.

    Attributes:
        tokens, parents: as in `DraftTree`.
        forwards: forwards run so far.
    """

    def __init__(self, state: DraftState) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.forwards = 0
        self._current = state.tokens[-1]
        self._engine = state.engine
        self._start = state.engine.position
        self._depths: list[int] = []
        self._rows: dict[int, int] = {}  # node -> its row behind the committed cache

    def __enter__(self) -> TreeBuilder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._engine.rewind(self._start)

    def add(self, parent: int, token: int) -> int:
        """Add a token below a node (−1: the current token); returns its index."""
        self.tokens.append(token)
        self.parents.append(parent)
        self._depths.append(self.depth(parent) + 1)
        return len(self.tokens) - 1

    def depth(self, node: int) -> int:
        """Distance from the current token, which has 0."""
        return 0 if node == ROOT else self._depths[node]

    def branch(self, node: int) -> list[int]:
        """The tokens from below the current one to this node, its own included."""
        return [self.tokens[each] for each in reversed(self._ancestry(node)) if each != ROOT]

    def run(self, nodes: Sequence[int]) -> Tensor:
        """Run these nodes, whose ancestors have all been run; the logits after each.  # (n, V)"""
        self.forwards += 1
        tokens = [self._current if node == ROOT else self.tokens[node] for node in nodes]
        for node in nodes:
            self._rows[node] = len(self._rows)
        if len(nodes) == 1 and len(self._rows) == self.depth(nodes[0]) + 1:
            # All rows so far are its ancestors: a chain needs no tree mask.
            return self._engine.step(tokens)
        return self._engine.step_tree(
            tokens, [self.depth(n) for n in nodes], self._tree_mask(nodes)
        )

    def _tree_mask(self, nodes: Sequence[int]) -> Tensor:
        """Among all rows so far, each node's ancestors and itself.  # (n, rows) bool"""
        import torch

        mask = torch.zeros(len(nodes), len(self._rows), dtype=torch.bool)
        for i, node in enumerate(nodes):
            mask[i, [self._rows[each] for each in self._ancestry(node)]] = True
        return mask

    def _ancestry(self, node: int) -> list[int]:
        """The node and its ancestors."""
        branch = [node]
        while branch[-1] != ROOT:
            branch.append(self.parents[branch[-1]])
        return branch
