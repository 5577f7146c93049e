"""SWIFT's draft trees (arXiv 2410.06916): a chain with siblings of each of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.drafting.tree import DraftKind, DraftTree
from skipopt.drafting.tree_builder import ROOT, TreeBuilder
from skipopt.drafting.without_replacement import best, level_scores
from skipopt.errors import UsageError
from skipopt.one_thread import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.base import DraftState

CONFIDENCE_LEVELS = (0.95, 0.8, 0.5)  # where the number of children changes


class SwiftTree:
    """Grows trees: the lower the confidence of a level, the more children it has.

    Args:
        max_depth: most levels.
        tau: confidence below which the chain ends; that token itself is still proposed.
        siblings: children per level, the chain's token included, for a confidence above 0.95,
            above 0.8, above 0.5, and below.

    Attributes:
        max_rows: most tokens of a tree.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(self, max_depth: int, tau: float, siblings: tuple[int, ...]) -> None:
        if max_depth < 1:
            raise UsageError(f"max_depth must be 1 or more, not {max_depth}")
        if not 0 <= tau <= 1:
            raise UsageError(f"tau must lie in [0, 1], not {tau}")
        if len(siblings) != len(CONFIDENCE_LEVELS) + 1 or min(siblings) < 1:
            shown = "-".join(map(str, siblings))
            raise UsageError(
                f"siblings must be four numbers of 1 or more, not {shown}", hint="try 1-3-5-10"
            )
        self.max_rows = max_depth * max(siblings)
        self._max_depth, self._tau, self._siblings = max_depth, tau, siblings

    def grow(self, state: DraftState, limit: int, row_cost: float) -> DraftTree:
        """A tree by the active draft model; the first child at each depth continues the chain.

        Args:
            limit: most levels of this tree.
            row_cost: siblings with a smaller expected number of accepted tokens are left out.
        """
        draft_probs: dict[int, Tensor] = {}
        sources: list[str] = []
        node, chance = ROOT, 1.0
        with TreeBuilder(state) as builder:
            while builder.forwards < min(self._max_depth, limit):
                logits = builder.run([node])  # (1, V)
                level = level_scores(
                    state.processed(logits, [builder.branch(node)]),
                    state.sampler,
                    len(state.tokens) + builder.depth(node),
                )
                if level.probs is not None:
                    draft_probs[node] = level.probs[0]
                count, sure = self._num_children(logits[0], chance, row_cost)
                children = [builder.add(node, token) for token in best(level.scores[0], count)]
                sources += ["drafted", *["sibling"] * (len(children) - 1)]
                node, chance = children[0], chance * sure
                if sure < self._tau:
                    break
        kind: DraftKind = "without-replacement" if draft_probs else "point"
        tokens, parents = tuple(builder.tokens), tuple(builder.parents)
        return DraftTree(tokens, parents, kind, draft_probs, builder.forwards, tuple(sources))

    @one_thread()
    def _num_children(self, logits: Tensor, chance: float, row_cost: float) -> tuple[int, float]:
        """(number of children to draw, confidence). Does not depend on the tokens drawn.

        Args:
            logits: of the parent.  # (V,)
            chance: the estimated probability that the chain is accepted up to the parent.
        """
        likely = logits.float().softmax(-1).topk(min(max(self._siblings), len(logits)))
        probs: list[float] = likely.values.tolist()
        sure = probs[0]
        level = sum(sure <= each for each in CONFIDENCE_LEVELS)
        siblings = sum(chance * each > row_cost for each in probs[1 : self._siblings[level]])
        return 1 + siblings, sure
