"""Trees drawn without replacement by stochastic beam search: unlikely branches end early.

Recursive speculative decoding with stochastic beams (RSD-S; Jeon et al., arXiv 2402.14160; Kool et
al., arXiv 1903.06059): the draft is the target's own weights under a skip mask. Knows nothing of
verification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.without_replacement import Level, best, condition, grow
from skipopt.errors import UsageError
from skipopt.models.skip import skipping

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.tree import DraftTree
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target


class BeamTreeDrafter(Drafter):
    """On each of up to `depth` levels the `width` best of all children, drawn as sequences are.

    `tau` ends the tree below a level without a confident row; see `grow`.

    Raises:
        UsageError: width or depth below 1, or τ outside [0, 1].
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "rejection"

    def __init__(
        self, target: Target, mask: SkipMask, width: int = 4, depth: int = 4, tau: float = 0.0
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
        self._skipping = skipping(target, mask)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        beams = Beams(self.width)
        with self._skipping:
            return grow(state, min(limit, self.depth), beams.choose, self.tau)


class Beams:
    """The sequences kept at one level, and by what they are kept.

    Sequences are dropped by their perturbed log-probability alone. Its rank says nothing of which
    token a sequence ends with; dropping by probability would, and would bias sampling.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._log_p: Tensor | None = None  # of each sequence  # (n,)
        self._perturbed: Tensor | None = None  # (n,)

    def choose(self, step: int, level: Level) -> list[tuple[int, int]]:
        """The best children of all, in descending order, so that siblings are, too."""
        log_p, perturbed = self._extended(level)
        kept = best(perturbed.flatten(), self._width)
        self._log_p, self._perturbed = log_p.flatten()[kept], perturbed.flatten()[kept]
        size = level.scores.shape[1]
        return [divmod(place, size) for place in kept]

    def _extended(self, level: Level) -> tuple[Tensor, Tensor]:
        """Of every child, log-probability and perturbed log-probability.  # (n, V) each"""
        root = level.scores.new_zeros(1)
        before = root if self._log_p is None else self._log_p
        largest = root if self._perturbed is None else self._perturbed
        log_p = before[:, None] + level.log_p
        if level.probs is None:
            # Nothing is drawn: plain beam search.
            return log_p, log_p
        return log_p, condition(before[:, None] + level.scores, largest)
