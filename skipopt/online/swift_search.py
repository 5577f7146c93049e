"""SWIFT's search for a better mask while text is generated (arXiv 2410.06916).

One candidate at a time is scored by matchness on the last generated tokens, and replaces the
current mask if it does better.

In SWIFT's own code the best score starts at 0, so any first candidate replaces the first mask, and
later candidates must beat a score that was won on other tokens. Here the current mask is scored on
the same tokens as the candidate. SWIFT also clones the KV cache, which is not needed here.
"""

from __future__ import annotations

from random import Random

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace, SkipMask

# SWIFT's settings.
SKIP_RATIO = 0.45  # of the sublayers between first and last layer
SUGGEST_EVERY = 25  # every n-th candidate comes from Bayesian optimization
ENOUGH_MATCHNESS = 0.93  # the search ends beyond it
PATIENCE = 300  # the search ends after so many candidates in a row without improvement
MAX_TRIALS = 1000


def alternating(depth: int) -> SkipMask:
    """SWIFT's first mask: layers 1, 3, 5, … skipped whole, never the first or the last."""
    layers = range(1, depth - 1, 2)
    return SkipMask.of(depth, layers, layers)


class SwiftMaskSearch:
    """The current mask and the candidates tried. Deterministic, given its calls.

    Args:
        depth: layers of the model.
        mask: to begin with; None is SWIFT's own.
        ratio: share of the 2(L − 2) sublayers between first and last layer that candidates skip.
            None is SWIFT's 0.45 if no mask is given, or one that skips nothing. With another mask,
            None means that candidates skip as many sublayers as it does: matchness compares only
            masks of equal cost.
        seed: of the candidates.
        unskippable: positions of sublayers that no candidate skips.

    Attributes:
        mask: the current one.
        matchness: of the current mask when it was last scored; None before.
        trials: candidates scored.

    Raises:
        UsageError: a ratio outside (0, 1), or a model of fewer than three layers.
    """

    def __init__(
        self,
        depth: int,
        mask: SkipMask | None = None,
        ratio: float | None = None,
        seed: int = 0,
        unskippable: frozenset[int] = frozenset(),
    ) -> None:
        if ratio is not None and not 0 < ratio < 1:
            raise UsageError(f"ratio must lie between 0 and 1, not {ratio}", hint="try ratio=0.45")
        if depth < 3:
            raise UsageError(f"a search between first and last layer needs three, not {depth}")
        self.space = _space(depth, mask, ratio, unskippable)
        self.mask = alternating(depth) if mask is None else mask
        self.matchness: float | None = None
        self.trials = 0
        self._without_success = 0
        self._values: dict[SkipMask, float] = {}
        self._rng = Random(seed)

    @property
    def done(self) -> bool:
        """Whether the mask is good enough, patience is over, or all trials are used."""
        enough = self.matchness is not None and self.matchness > ENOUGH_MATCHNESS
        return enough or self._without_success > PATIENCE or self.trials >= MAX_TRIALS

    def propose(self) -> SkipMask:
        """A random candidate; every 25th from Bayesian optimization."""
        if (self.trials + 1) % SUGGEST_EVERY == 0 and len(self._values) > 1:
            from skipopt.gaussian_process import suggest_mask

            return suggest_mask(self.space, self._values, self._rng)
        return self.space.random(self._rng)

    def tell(self, candidate: SkipMask, matchness: float, current: float) -> None:
        """Take in the matchness of a candidate and of the current mask on the same tokens."""
        self.trials += 1
        self._values[candidate] = matchness
        if matchness > current:
            self.mask, self.matchness, self._without_success = candidate, matchness, 0
        else:
            self.matchness = current
            self._without_success += 1


def _space(
    depth: int, mask: SkipMask | None, ratio: float | None, unskippable: frozenset[int]
) -> MaskSpace:
    """Candidates: first and last layer are never skipped, except where the given mask does."""
    ends = {0, 1, 2 * depth - 2, 2 * depth - 1}
    if mask is not None and mask.skipped and ratio is None:
        skipped = mask.skipped - unskippable
        return MaskSpace(depth, frozenset(ends - mask.skipped) | unskippable, len(skipped))
    count = int(2 * (depth - 2) * (SKIP_RATIO if ratio is None else ratio))
    frozen = frozenset(ends) | unskippable
    return MaskSpace(depth, frozen, min(max(1, count), 2 * depth - len(frozen)))
