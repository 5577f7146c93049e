"""The likeliest tokens of several levels as a tree, when each level was guessed by itself.

The joint probability of a path is taken as the product over its levels, so the best tree of n
nodes is found greedily (Cai et al., Medusa, arXiv 2401.10774, §2.3.3, here anew for every draft).
Knows nothing of where the guesses came from.
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
    """How large a tree may be.

    Args:
        max_nodes: most tokens.
        min_path_prob: a token whose path is less probable than this is not drafted.

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
        """The tree of point-mass drafts.  # scores: (levels, V), logits of each level"""
        if not len(scores):
            return DraftTree(forwards=forwards)
        values, ids = scores.float().log_softmax(-1).topk(min(self.max_nodes, scores.shape[-1]))
        tokens, parents = self._pick(values.tolist(), ids.tolist())
        return DraftTree(tuple(tokens), tuple(parents), forwards=forwards)

    def _pick(
        self, values: list[list[float]], ids: list[list[int]]
    ) -> tuple[list[int], list[int]]:
        """Take the likeliest candidate; its child and its next sibling become candidates."""
        tokens: list[int] = []
        parents: list[int] = []
        floor = math.log(self.min_path_prob) if self.min_path_prob > 0 else -math.inf
        # (−log of the path's probability, parent, level, rank, log of the parent's path)
        heap = [(-values[0][0], -1, 0, 0, 0.0)]
        while heap and len(tokens) < self.max_nodes and -heap[0][0] >= floor:
            cost, parent, level, rank, above = heapq.heappop(heap)
            tokens.append(ids[level][rank])
            parents.append(parent)
            if level + 1 < len(values):
                below = -cost + values[level + 1][0]
                heapq.heappush(heap, (-below, len(tokens) - 1, level + 1, 0, -cost))
            if rank + 1 < len(values[level]):
                beside = above + values[level][rank + 1]
                heapq.heappush(heap, (-beside, parent, level, rank + 1, above))
        return tokens, parents


def position_scores(logits: Tensor, sampler: TokenSampler, position: int) -> Tensor:
    """What to rank guesses by: with the noise of their positions where the target is, too.

    Args:
        logits: a row for each level.  # (levels, V)
        position: absolute position of the first level.
    """
    if not sampler.coupled:
        return sampler.probabilities(logits).log()
    return sampler.scores(logits, range(position, position + len(logits)))
