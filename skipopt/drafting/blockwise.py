"""Trained heads guess the next k tokens from the state that chose the last one.

Blockwise parallel decoding (Stern et al., arXiv 1811.03115, §3 and §4) and Medusa-1 (Cai et al.,
arXiv 2401.10774, §2.1): the state comes from the forward that verified the draft before, so
predicting and verifying are one pass and a draft costs no forward at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.best_first import TreeBudget, position_scores
from skipopt.drafting.checkpoints.loading import find_learned
from skipopt.drafting.tree import DraftTree

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.models.target import Target

SHIPPED = {"ffn": "heads-ffn", "medusa": "heads-medusa"}
TRAIN = (
    "skipopt train heads MODEL -o heads.safetensors, then blockwise:checkpoint=heads.safetensors"
)


class BlockwiseDrafter(Drafter):
    """Grows a tree from the guesses of k heads; the first round of a text drafts nothing.

    Args:
        checkpoint: a file of `skipopt train heads`, or `ffn` or `medusa` for what ships with the
            built-in model.
        max_nodes: most tokens of a tree; 1 … k make a chain only where siblings are less probable.
        min_path_prob: least probability of a path that is worth a row in verification.

    Raises:
        UsageError: a value out of range, or no heads for this model.
        ArtefactError: the file does not hold this model's heads.
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

        self._shape = TreeBudget(max_nodes, min_path_prob)
        self._target = target
        self._heads = load_heads(find_learned(target, checkpoint, SHIPPED, TRAIN), target)
        self._state: Tensor | None = None
        self.max_extra_rows = max_nodes

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if self._state is None or limit < 1:
            return DraftTree()
        import torch

        with torch.inference_mode(), self._target.runtime.kernels.patch:
            logits = self._heads.logits(self._state, self._target)[:limit]  # (k, V)
            return self._shape.grow(position_scores(logits, state.sampler, len(state.tokens)))

    def observe(self, outcome: RoundOutcome) -> None:
        assert outcome.hidden is not None
        self._state = outcome.hidden[outcome.last_row]
