"""Trees drawn without replacement, with as many children below every token of a level.

Recursive speculative decoding, constant branching (RSD-C; Jeon et al., arXiv 2402.14160): the
draft is the target's own weights under a skip mask. Knows nothing of verification.
"""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.without_replacement import Level, best, grow
from skipopt.errors import UsageError
from skipopt.models.skip import skipping

if TYPE_CHECKING:
    from skipopt.drafting.tree import DraftTree
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target


class ConstantTreeDrafter(Drafter):
    """Below each token of level l, `branching[l]` children drawn without replacement.

    Fewer where fewer tokens are possible. `tau` ends the tree below a level without a confident
    row; see `grow`.

    Raises:
        UsageError: no levels, a level of none, or τ outside [0, 1].
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "rejection"

    def __init__(
        self,
        target: Target,
        mask: SkipMask,
        branching: tuple[int, ...] = (2, 2, 1),
        tau: float = 0.0,
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
        self._skipping = skipping(target, mask)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        with self._skipping:
            return grow(state, min(limit, len(self.branching)), self._choose, self.tau)

    def _choose(self, step: int, level: Level) -> list[tuple[int, int]]:
        count = self.branching[step]
        return [(i, token) for i, row in enumerate(level.scores) for token in best(row, count)]
