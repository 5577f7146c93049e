"""k trained mask tokens after the current token; the target predicts all of them in one forward.

Spec-Drafter (Xia et al., arXiv 2203.16487, §3): each mask token has its own embedding and position
and so its own query. The draft model is the target itself, whole (PaSS, arXiv 2311.13581, §3) or
under the skip mask that the mask tokens were trained with. Or the mask tokens are extra rows of
the verifying forward (BiTA, arXiv 2401.12522, §3), and a draft costs no forward.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.best_first import TreeBudget, position_scores
from skipopt.drafting.checkpoints.loading import find_checkpoint
from skipopt.drafting.tree import DraftTree, ExtraRows
from skipopt.errors import UsageError
from skipopt.models.skip import skipping

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.models.target import Target

SHIPPED = {"whole": "mask-tokens", "skipped": "mask-tokens-skipped"}
TRAIN = (
    "skipopt train mask-tokens MODEL -o tokens.safetensors, "
    "then spec-drafter:checkpoint=tokens.safetensors"
)


class SpecDrafter(Drafter):
    """Drafts k + 1 tokens in one forward of the draft model, or k in none if fused.

    Args:
        checkpoint: a file of `skipopt train mask-tokens`, or `whole` or `skipped`: those of the
            built-in model, trained with that body.
        fused: put mask tokens behind every token of the verifying forward, instead of a forward of
            their own; needs mask tokens trained with the full model.
        max_nodes: most tokens of a tree.
        min_path_prob: tokens whose path is less probable than this are not drafted.

    Raises:
        UsageError: a value out of range, no mask tokens for this model, or fused with mask tokens
            that were trained under a skip mask.
        CheckpointError: the file does not hold mask tokens of this model.
    """

    def __init__(
        self,
        target: Target,
        checkpoint: str = "skipped",
        fused: bool = False,
        max_nodes: int = 4,
        min_path_prob: float = 0.05,
    ) -> None:
        from skipopt.drafting.checkpoints.mask_tokens import load_mask_tokens

        self._budget = TreeBudget(max_nodes, min_path_prob)
        self._mask_tokens = load_mask_tokens(
            find_checkpoint(target, checkpoint, SHIPPED, TRAIN), target
        )
        if fused and self._mask_tokens.body.skipped:
            raise UsageError(
                "fused mask tokens run through the full model, "
                "but these were trained under a skip mask",
                hint="use checkpoint=whole, or train some without --profile",
            )
        self._count = len(self._mask_tokens.embeddings)
        body = self._mask_tokens.body
        self._body = skipping(target, body) if body.skipped else nullcontext()
        self._fused = fused
        self._guesses: Tensor | None = None
        self.max_extra_rows = (
            (1 + max_nodes) * (1 + self._count) if fused else max(max_nodes, 1 + self._count)
        )

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if self._fused:
            return self._with_slots(self._guessed(state, limit), state)
        if limit < 1:
            return DraftTree()
        logits = self._fill_slots(state)[:limit]
        return self._budget.grow(position_scores(logits, state.sampler, len(state.tokens)), 1)

    def observe(self, outcome: RoundOutcome) -> None:
        if self._fused:
            drafted = 1 + len(outcome.draft.tokens)
            first = drafted + outcome.last_row * self._count
            self._guesses = outcome.logits[first : first + self._count]  # (k, V)

    def _fill_slots(self, state: DraftState) -> Tensor:
        """Logits of the current token and of each slot.  # (1 + k, V)"""
        import torch

        start, count = state.engine.position, 1 + self._count
        rows = self._mask_tokens.after(state.engine.embed([state.tokens[-1]]))
        try:
            with self._body:
                causal = torch.ones(count, count, dtype=torch.bool).tril()
                return state.engine.step_tree(rows, range(count), causal)
        finally:
            state.engine.rewind(start)

    def _guessed(self, state: DraftState, limit: int) -> DraftTree:
        """A tree from the logits of the last round's mask tokens."""
        if self._guesses is None or limit < 1:
            return DraftTree()
        scores = position_scores(self._guesses[:limit], state.sampler, len(state.tokens))
        return self._budget.grow(scores)

    def _with_slots(self, tree: DraftTree, state: DraftState) -> DraftTree:
        """The tree with k mask tokens behind the current token and behind each drafted one."""
        import torch

        k, rows = self._count, 1 + len(tree.tokens)
        # A slot attends to what its token attends to, and to the slots before it.
        tokens = tree.attends().repeat_interleave(k, 0)
        own = torch.eye(rows).kron(torch.ones(k, k).tril()).bool()
        depths = [depth + 1 + slot for depth in (0, *tree.depths()) for slot in range(k)]
        with torch.inference_mode():
            embedded = state.engine.embed([state.tokens[-1], *tree.tokens])
            slots = self._mask_tokens.slots(embedded).flatten(0, 1)
        extra_rows = ExtraRows(slots, tuple(depths), torch.cat([tokens, own], 1))
        return DraftTree(tree.tokens, tree.parents, extra_rows=extra_rows)
