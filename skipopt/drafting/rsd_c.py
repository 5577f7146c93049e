"""Recursive speculative decoding with constant branching (RSD-C; Jeon et al., arXiv 2402.14160).

Trees drawn without replacement, with the same number of children below every token of a level.
The draft model is the target under a skip mask, or with a draft config.
"""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.draft_model import DraftModel
from skipopt.drafting.tree import DraftTree
from skipopt.drafting.without_replacement import Level, best, grow
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target


class ConstantTreeDrafter(Drafter):
    """Draws `branching[l]` children without replacement below each token of level l.

    Fewer, if fewer tokens are possible.

    Args:
        mask, draft_config, exit_layer: as in `DraftModel`.
        branching: children of each token, level by level.
        tau: no level below one whose rows are all less confident than this; see `grow`.

    Raises:
        UsageError: no levels, a level without children, τ outside [0, 1], or nothing that makes
            drafts cheaper.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "rejection"

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None = None,
        branching: tuple[int, ...] = (2, 2, 1),
        tau: float = 0.0,
        exit_layer: int | None = None,
        draft_config: DraftConfig = UNCHANGED,
    ) -> None:
        if not branching or min(branching) < 1:
            raise UsageError(
                f"branching must be numbers of 1 or more, not {'-'.join(map(str, branching))!r}",
                hint="try branching=2-2-1",
            )
        if not 0 <= tau <= 1:
            raise UsageError(f"tau must lie in [0, 1], not {tau}")
        self.branching = branching
        self.tau = tau
        self.max_extra_rows = sum(accumulate(branching, mul))
        self.draft_model = DraftModel(target, mask, draft_config, exit_layer)
        self.preparation = self.draft_model.preparation

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if self.draft_model.idle:
            return DraftTree()
        with self.draft_model.drafting(state):
            return grow(state, min(limit, len(self.branching)), self._choose, self.tau)

    def _choose(self, step: int, level: Level) -> list[tuple[int, int]]:
        count = self.branching[step]
        return [(i, token) for i, row in enumerate(level.scores) for token in best(row, count)]
