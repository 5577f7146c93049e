"""Recursive speculative decoding with stochastic beam search (RSD-S).

Jeon et al., arXiv 2402.14160; Kool et al., arXiv 1903.06059. Trees drawn without replacement in
which unlikely branches end early. The draft model is the target under a skip mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.draft_model import DraftModel
from skipopt.drafting.tree import DraftTree
from skipopt.drafting.without_replacement import Level, best, condition, grow
from skipopt.errors import UsageError
from skipopt.one_thread import one_thread

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.masks import SkipMask
    from skipopt.models.target import Target


class BeamTreeDrafter(Drafter):
    """Keeps the `width` best of all children on each of up to `depth` levels.

    Args:
        mask, draft_config, exit_layer: as in `DraftModel`.
        width: tokens kept on a level.
        depth: most levels.
        tau: no level below one whose rows are all less confident than this; see `grow`.

    Raises:
        UsageError: width or depth below 1, τ outside [0, 1], or nothing that makes drafts cheaper.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "rejection"

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None = None,
        width: int = 4,
        depth: int = 4,
        tau: float = 0.0,
        exit_layer: int | None = None,
        draft_config: DraftConfig = UNCHANGED,
    ) -> None:
        for name, value in {"width": width, "depth": depth}.items():
            if value < 1:
                raise UsageError(f"{name} must be 1 or more, not {value}", hint=f"try {name}=4")
        if not 0 <= tau <= 1:
            raise UsageError(f"tau must lie in [0, 1], not {tau}")
        self.width = width
        self.depth = depth
        self.tau = tau
        self.max_extra_rows = width * depth
        self.draft_model = DraftModel(target, mask, draft_config, exit_layer)
        self.preparation = self.draft_model.preparation

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if self.draft_model.idle:
            return DraftTree()
        beams = Beams(self.width)
        with self.draft_model.drafting(state):
            return grow(state, min(limit, self.depth), beams.choose, self.tau)


class Beams:
    """The sequences kept at one level.

    Sequences are dropped by their perturbed log-probability only. Dropping by probability would
    depend on the tokens drawn and bias sampling.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._log_p: Tensor | None = None  # of each sequence  # (n,)
        self._perturbed: Tensor | None = None  # (n,)

    @one_thread()
    def choose(self, step: int, level: Level) -> list[tuple[int, int]]:
        """The best of all children, as (index of the parent, token), best first."""
        log_p, perturbed = self._extended(level)
        kept = best(perturbed.flatten(), self._width)
        self._log_p, self._perturbed = log_p.flatten()[kept], perturbed.flatten()[kept]
        size = level.scores.shape[1]
        return [divmod(place, size) for place in kept]

    def _extended(self, level: Level) -> tuple[Tensor, Tensor]:
        """Log-probability and perturbed log-probability of every child.  # (n, V) each"""
        root = level.scores.new_zeros(1)
        before = root if self._log_p is None else self._log_p
        largest = root if self._perturbed is None else self._perturbed
        log_p = before[:, None] + level.log_p
        if level.probs is None:
            # Point masses: plain beam search.
            return log_p, log_p
        return log_p, condition(before[:, None] + level.scores, largest)
