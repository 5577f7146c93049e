"""Trained heads guess the next k tokens from the target's last hidden state.

Blockwise parallel decoding (Stern et al., arXiv 1811.03115, §3 and §4) and Medusa-1 (Cai et al.,
arXiv 2401.10774, §2.1): the state comes from the forward that verified the previous draft, so a
draft costs no forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.best_first import TreeBudget, position_scores
from skipopt.drafting.checkpoints.loading import find_checkpoint
from skipopt.drafting.tree import DraftTree

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.models.target import Target

SHIPPED = {"ffn": "heads-ffn", "medusa": "heads-medusa"}
TRAIN = (
    "skipopt train heads MODEL -o heads.safetensors, then blockwise:checkpoint=heads.safetensors"
)


class BlockwiseDrafter(Drafter):
    """Drafts the likeliest tree of the guesses of k heads; in the first round nothing.

    Args:
        checkpoint: a file of `skipopt train heads`, or `ffn` or `medusa`: those of the built-in
            model.
        max_nodes: most tokens of a tree.
        min_path_prob: tokens whose path is less probable than this are not drafted.

    Raises:
        UsageError: a value out of range, or no heads for this model.
        CheckpointError: the file does not hold heads of this model.
    """

    wants_hidden = True

    def __init__(
        self,
        target: Target,
        checkpoint: str = "ffn",
        max_nodes: int = 6,
        min_path_prob: float = 0.05,
    ) -> None:
        from skipopt.drafting.checkpoints.heads import load_heads

        self._budget = TreeBudget(max_nodes, min_path_prob)
        self._target = target
        self._heads = load_heads(find_checkpoint(target, checkpoint, SHIPPED, TRAIN), target)
        self._state: Tensor | None = None
        self.max_extra_rows = max_nodes

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if self._state is None or limit < 1:
            return DraftTree()
        import torch

        with torch.inference_mode(), self._target.runtime.kernels.patch:
            logits = self._heads.logits(self._state, self._target)[:limit]  # (k, V)
            return self._budget.grow(position_scores(logits, state.sampler, len(state.tokens)))

    def observe(self, outcome: RoundOutcome) -> None:
        assert outcome.hidden is not None
        self._state = outcome.hidden[outcome.last_row]
