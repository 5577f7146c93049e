"""Chain drafts from the target's own weights under a skip mask.

Draft & Verify (arXiv 2309.08168, §3): the draft reads the committed keys and values of the full
model and writes its own behind them; verification overwrites those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.protocol import Drafter, DraftState
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.sampling import confidence
from skipopt.skipping import skipping

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.masks import SkipMask
    from skipopt.models.target import Target


class LayerSkipDrafter(Drafter):
    """Drafts up to γ tokens; stops after the first whose confidence is below τ.

    The token below τ is still proposed: its forward has been paid, and dropping a drawn token
    because of its probability would bias sampling.

    Raises:
        UsageError: γ < 1, or τ outside [0, 1].
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "rejection"

    def __init__(self, target: Target, mask: SkipMask, gamma: int = 4, tau: float = 0.0) -> None:
        if gamma < 1:
            raise UsageError(f"gamma must be 1 or more, not {gamma}", hint="try gamma=4")
        if not 0 <= tau <= 1:
            raise UsageError(f"tau must lie in [0, 1], not {tau}")
        self.gamma = self.rows = gamma
        self.tau = tau
        self._skipping = skipping(target.layers, mask)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        start = state.engine.position
        tokens: list[int] = []
        rows: list[Tensor] = []
        current = state.tokens[-1]
        try:
            with self._skipping:
                while len(tokens) < min(self.gamma, limit):
                    logits = state.engine.step([current])[0]  # (V,)
                    position = len(state.tokens) + len(tokens)
                    current, row = state.sampler.draft(logits, position)
                    tokens.append(current)
                    rows += [] if row is None else [row]
                    if self.tau > 0 and float(confidence(logits)) < self.tau:
                        break
        finally:
            state.engine.rewind(start)
        return DraftTree.chain(tokens, rows, forwards=len(tokens))
