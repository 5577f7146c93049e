"""k learned [M] tokens behind the current one are filled in by the target in a single pass.

Spec-Drafter (Xia et al., arXiv 2203.16487, §3): each slot asks with a query of its own, since its
embedding and its position are its own. The body is the target itself, whole (PaSS, arXiv
2311.13581, §3) or under the mask the embeddings were trained with; or the slots ride along in the
verifying pass (BiTA, arXiv 2401.12522, §3), and a draft costs no forward at all.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.best_first import TreeBudget, position_scores
from skipopt.drafting.checkpoints.loading import find_learned
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
    """Drafts k + 1 tokens in one pass of the body, or k in none when fused.

    Args:
        checkpoint: a file of `skipopt train mask-tokens`, or `whole` or `skipped`: those of the
            built-in model, trained with that body.
        fused: put slots behind every drafted token of the verifying pass, instead of a pass of
            their own; needs embeddings trained with the whole body.
        max_nodes: most tokens of a tree.
        min_path_prob: least probability of a path that is worth a row in verification.

    Raises:
        UsageError: a value out of range, no embeddings for this model, or fused with a thinned
            body.
        ArtefactError: the file does not hold this model's [M] tokens.
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

        self._shape = TreeBudget(max_nodes, min_path_prob)
        self._learned = load_mask_tokens(find_learned(target, checkpoint, SHIPPED, TRAIN), target)
        if fused and self._learned.body.skipped:
            raise UsageError(
                "fused slots run through the whole model, but these were trained in a thinned one",
                hint="use checkpoint=whole, or train some without --profile",
            )
        self._count = len(self._learned.embeddings)
        body = self._learned.body
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
        return self._shape.grow(position_scores(logits, state.sampler, len(state.tokens)), 1)

    def observe(self, outcome: RoundOutcome) -> None:
        if self._fused:
            drafted = 1 + len(outcome.draft.tokens)
            first = drafted + outcome.last_row * self._count
            self._guesses = outcome.logits[first : first + self._count]  # (k, V)

    def _fill_slots(self, state: DraftState) -> Tensor:
        """Logits of the current token and of each slot.  # (1 + k, V)"""
        import torch

        start, count = state.engine.position, 1 + self._count
        rows = self._learned.after(state.engine.embed([state.tokens[-1]]))
        try:
            with self._body:
                causal = torch.ones(count, count, dtype=torch.bool).tril()
                return state.engine.step_tree(rows, range(count), causal)
        finally:
            state.engine.rewind(start)

    def _guessed(self, state: DraftState, limit: int) -> DraftTree:
        """A tree of what the slots of the last round said."""
        if self._guesses is None or limit < 1:
            return DraftTree()
        scores = position_scores(self._guesses[:limit], state.sampler, len(state.tokens))
        return self._shape.grow(scores)

    def _with_slots(self, tree: DraftTree, state: DraftState) -> DraftTree:
        """The tree with k slots behind the current token and behind each of its own."""
        import torch

        k, rows = self._count, 1 + len(tree.tokens)
        # A slot sees what its token sees, and the slots before it behind the same token.
        tokens = tree.attends().repeat_interleave(k, 0)
        own = torch.eye(rows).kron(torch.ones(k, k).tril()).bool()
        depths = [depth + 1 + slot for depth in (0, *tree.depths()) for slot in range(k)]
        with torch.inference_mode():
            written = state.engine.embed([state.tokens[-1], *tree.tokens])
            slots = self._learned.slots(written).flatten(0, 1)
        side = ExtraRows(slots, tuple(depths), torch.cat([tokens, own], 1))
        return DraftTree(tree.tokens, tree.parents, extra_rows=side)
