"""Builds the likeliest tree from logits of several future positions, guessed independently.

The probability of a path is taken as the product over its positions, so the best tree of n tokens
is found greedily, anew for every draft (Cai et al., Medusa, arXiv 2401.10774, §2.3.3).
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.sampling import TokenSampler


class TreeBudget:
    """Limits on the size of a tree.

    Args:
        max_nodes: most tokens.
        min_path_prob: tokens whose path is less probable than this are left out.

    Raises:
        UsageError: max_nodes < 1, or min_path_prob outside [0, 1].
    """

    def __init__(self, max_nodes: int, min_path_prob: float) -> None:
        if max_nodes < 1:
            raise UsageError(f"max_nodes must be 1 or more, not {max_nodes}")
        if not 0 <= min_path_prob <= 1:
            raise UsageError(f"min_path_prob must lie in [0, 1], not {min_path_prob}")
        self.max_nodes = max_nodes
        self.min_path_prob = min_path_prob

    def grow(self, scores: Tensor, forwards: int = 0) -> DraftTree:
        """The tree with the likeliest tokens.

        Args:
            scores: logits of each level.  # (levels, V)
            forwards: draft forwards that the scores took.
        """
        if not len(scores):
            return DraftTree(forwards=forwards)
        values, ids = scores.float().log_softmax(-1).topk(min(self.max_nodes, scores.shape[-1]))
        tokens, parents = self._pick(values.tolist(), ids.tolist())
        return DraftTree(tuple(tokens), tuple(parents), forwards=forwards)

    def _pick(
        self, values: list[list[float]], ids: list[list[int]]
    ) -> tuple[list[int], list[int]]:
        """Tokens and parents: takes the likeliest candidate until a limit is reached.

        The first child and the next sibling of a token taken become candidates.
        """
        tokens: list[int] = []
        parents: list[int] = []
        floor = math.log(self.min_path_prob) if self.min_path_prob > 0 else -math.inf
        # (−log of the path's probability, parent, level, rank, log probability of the parent)
        heap = [(-values[0][0], -1, 0, 0, 0.0)]
        while heap and len(tokens) < self.max_nodes and -heap[0][0] >= floor:
            cost, parent, level, rank, above = heapq.heappop(heap)
            tokens.append(ids[level][rank])
            parents.append(parent)
            if level + 1 < len(values):
                below = -cost + values[level + 1][0]
                heapq.heappush(heap, (-below, len(tokens) - 1, level + 1, 0, -cost))
            if rank + 1 < len(values[level]):
                sibling = above + values[level][rank + 1]
                heapq.heappush(heap, (-sibling, parent, level, rank + 1, above))
        return tokens, parents


def position_scores(logits: Tensor, sampler: TokenSampler, position: int) -> Tensor:
    """Scores to rank guesses by, the largest first.

    With a coupled sampler they include the noise of the positions, as the target's choices do.

    Args:
        logits: of each level.  # (levels, V)
        position: absolute position of the first level.
    """
    if not sampler.coupled:
        return sampler.probabilities(logits).log()
    return sampler.scores(logits, range(position, position + len(logits)))
