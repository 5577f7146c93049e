"""A draft tree grown level by level by the model that is in force.

    with skipping, Growth(state) as growth:
        logits = growth.run([-1])                 # after the current token
        nodes = [growth.add(-1, token) for token in …]
        logits = growth.run(nodes)                # one forward for the whole level

Rows are written behind the committed cache and forgotten at the end. Knows nothing of how tokens
are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.base import DraftState

ROOT = -1  # the current token


class TreeBuilder:
    """Tokens, parents and depths of a tree, and the draft forwards it took.

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
        self._ran: dict[int, int] = {}  # node -> its row behind the committed cache

    def __enter__(self) -> TreeBuilder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._engine.rewind(self._start)

    def add(self, parent: int, token: int) -> int:
        """Hang a token below a node; returns its own number."""
        self.tokens.append(token)
        self.parents.append(parent)
        self._depths.append(self.depth(parent) + 1)
        return len(self.tokens) - 1

    def depth(self, node: int) -> int:
        return 0 if node == ROOT else self._depths[node]

    def run(self, nodes: Sequence[int]) -> Tensor:
        """Logits after each of these nodes, whose ancestors have all been run.  # (n, V)"""
        self.forwards += 1
        tokens = [self._current if node == ROOT else self.tokens[node] for node in nodes]
        for node in nodes:
            self._ran[node] = len(self._ran)
        if len(nodes) == 1 and len(self._ran) == self.depth(nodes[0]) + 1:
            # All rows so far are its ancestors: a chain needs no mask of its own.
            return self._engine.step(tokens)
        return self._engine.step_tree(tokens, [self.depth(n) for n in nodes], self._sees(nodes))

    def _sees(self, nodes: Sequence[int]) -> Tensor:
        """Each node's ancestors and itself among all rows so far.  # (n, rows) bool"""
        import torch

        sees = torch.zeros(len(nodes), len(self._ran), dtype=torch.bool)
        for i, node in enumerate(nodes):
            sees[i, [self._ran[each] for each in self._line(node)]] = True
        return sees

    def _line(self, node: int) -> list[int]:
        """The node and its ancestors."""
        line = [node]
        while line[-1] != ROOT:
            line.append(self.parents[line[-1]])
        return line
