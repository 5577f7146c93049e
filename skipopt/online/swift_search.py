"""SWIFT's search for a better mask while text is generated (arXiv 2410.06916).

A candidate at a time is scored by matchness over the last generated tokens, in one forward in
draft mode beside the committed cache, and replaces the mask in force where it does better.

SWIFT's own code never scores its first mask: the best score starts at 0, so any first candidate
replaces it; later candidates must beat a score that was won on other tokens, long ago. Here the
mask in force is scored on the same tokens as the candidate. Nor is a cache cloned.
Knows nothing of how drafts are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.online.traces import score

if TYPE_CHECKING:
    from skipopt.runtime.engine import Engine
    from skipopt.sampling import TokenSampler

RATIO = 0.45  # of sublayers that candidates skip
EVERY = 25  # every so many candidates one is suggested by Bayesian optimisation
ENOUGH = 0.93  # matchness beyond which the search ends
PATIENCE = 300  # candidates in a row without success after which it ends
TRIALS = 1000  # candidates in all


def alternating(depth: int) -> SkipMask:
    """SWIFT's first mask: layers 1, 3, 5, …, never the first or last, skipped whole."""
    layers = range(1, depth - 1, 2)
    return SkipMask.of(depth, layers, layers)


class SwiftMaskSearch:
    """The mask in force and what has been tried. Deterministic, given what it is told.

    Args:
        depth: layers of the model.
        mask: to begin with; None is SWIFT's own.
        ratio: share of the 2(L − 2) sublayers between first and last layer that candidates skip.
            None is SWIFT's 0.45 without a mask; with one, candidates skip as many as it does, for
            matchness says nothing of speed between masks that do not.
        seed: of candidates.

    Attributes:
        mask: in force.
        score: its matchness when it was last scored; None before.
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
    ) -> None:
        if ratio is not None and not 0 < ratio < 1:
            raise UsageError(f"ratio must lie between 0 and 1, not {ratio}", hint="try ratio=0.45")
        if depth < 3:
            raise UsageError(f"a search between first and last layer needs three, not {depth}")
        self.space = _space(depth, mask, ratio)
        self.mask = alternating(depth) if mask is None else mask
        self.score: float | None = None
        self.trials = 0
        self._misses = 0
        self._values: dict[SkipMask, float] = {}
        self._seed = seed
        self._rng = Random(seed)

    @property
    def done(self) -> bool:
        """Good enough, without success for long, or at the end of its trials."""
        enough = self.score is not None and self.score > ENOUGH
        return enough or self._misses > PATIENCE or self.trials >= TRIALS

    def propose(self) -> SkipMask:
        """A candidate: at random, or every 25th time by Bayesian optimisation."""
        if (self.trials + 1) % EVERY == 0 and len(self._values) > 1:
            from skipopt.gaussian_process import suggest_mask

            return suggest_mask(self.space, self._values, self._rng, self._seed)
        return self.space.random(self._rng)

    def tell(self, candidate: SkipMask, value: float, in_force: float) -> None:
        """What candidate and mask in force scored on the same tokens."""
        self.trials += 1
        self._values[candidate] = value
        if value > in_force:
            self.mask, self.score, self._misses = candidate, value, 0
        else:
            self.score, self._misses = in_force, self._misses + 1


def _space(depth: int, mask: SkipMask | None, ratio: float | None) -> MaskSpace:
    """First and last layer are left alone, where the first mask leaves them alone, too."""
    ends = {0, 1, 2 * depth - 2, 2 * depth - 1}
    if mask is not None and ratio is None:
        return MaskSpace(depth, frozenset(ends - mask.skipped), len(mask.skipped))
    count = int(2 * (depth - 2) * (RATIO if ratio is None else ratio))
    return MaskSpace(depth, frozenset(ends), max(1, count))


def matchness(
    engine: Engine, sampler: TokenSampler, tokens: Sequence[int], window: int, mask: SkipMask
) -> float:
    """Share of the last tokens that a draft's first guess under `mask` would have been.

    Args: as in `score`.
    """
    hits = score(engine, sampler, tokens, window, mask).hits
    return sum(hits) / window
