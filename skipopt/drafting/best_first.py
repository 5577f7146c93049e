"""Builds the most probable draft tree from logits that predict several positions independently.

The probability of a path is the product of the probabilities at its positions. The best tree of n
tokens is then found greedily, for every draft (Cai et al., Medusa, arXiv 2401.10774, §2.3.3).
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.one_thread import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.sampling import TokenSampler


class TreeBudget:
    """Limits on the size of a tree.

    Args:
        max_nodes: most tokens.
        min_path_prob: tokens whose path from the root is less probable are left out.

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

    @one_thread()
    def grow(self, scores: Tensor, forwards: int = 0) -> DraftTree:
        """The tree of the tokens with the most probable paths.

        Args:
            scores: logits of each level.  # (levels, V)
            forwards: number of draft forwards that computed the scores.
        """
        if not len(scores):
            return DraftTree(forwards=forwards)
        values, ids = scores.float().log_softmax(-1).topk(min(self.max_nodes, scores.shape[-1]))
        tokens, parents = self._pick(values.tolist(), ids.tolist())
        return DraftTree(tuple(tokens), tuple(parents), forwards=forwards)

    def _pick(
        self, values: list[list[float]], ids: list[list[int]]
    ) -> tuple[list[int], list[int]]:
        """Tokens and parents: takes the most probable candidate until a limit is reached.

        The first child and the next sibling of each token taken become candidates.

        Args:
            values: log probabilities of the best tokens of each level, in descending order.
            ids: these tokens.
        """
        tokens: list[int] = []
        parents: list[int] = []
        min_log_prob = math.log(self.min_path_prob) if self.min_path_prob > 0 else -math.inf
        # (−log probability of the path, parent, level, rank, log probability of the parent's path)
        heap = [(-values[0][0], -1, 0, 0, 0.0)]
        while heap and len(tokens) < self.max_nodes and -heap[0][0] >= min_log_prob:
            cost, parent, level, rank, parent_log_prob = heapq.heappop(heap)
            tokens.append(ids[level][rank])
            parents.append(parent)
            if level + 1 < len(values):
                child = -cost + values[level + 1][0]
                heapq.heappush(heap, (-child, len(tokens) - 1, level + 1, 0, -cost))
            if rank + 1 < len(values[level]):
                sibling = parent_log_prob + values[level][rank + 1]
                heapq.heappush(heap, (-sibling, parent, level, rank + 1, parent_log_prob))
        return tokens, parents


def position_scores(logits: Tensor, sampler: TokenSampler, position: int) -> Tensor:
    """Scores that rank the candidate tokens of each level; higher is better.  # (levels, V)

    With a coupled sampler they include the noise of the positions, as the target's choices do.

    Args:
        logits: predictions for each level.  # (levels, V)
        position: absolute position of the first level.
    """
    if not sampler.coupled:
        return sampler.probabilities(logits).log()
    return sampler.scores(logits, range(position, position + len(logits)))
