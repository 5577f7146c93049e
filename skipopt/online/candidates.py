"""Which draft parameters online tuning tries next."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.online.comparison import DraftParameters
from skipopt.online.config import OnlineConfig


class CandidateGenerator:
    """Neighbors of the current parameters in random order, without repetition.

    A neighbor has one sublayer flipped, γ one larger or smaller, or τ one step higher or lower.
    Every `suggest_every`-th candidate has the mask that a Gaussian process over the masks compared
    so far suggests, as in SWIFT. Deterministic, given its calls.

    Args:
        space: the masks that may be tried.
        max_gamma: largest γ of a candidate.

    Attributes:
        count: candidates proposed so far.
    """

    def __init__(self, space: MaskSpace, max_gamma: int, config: OnlineConfig) -> None:
        self.count = 0
        self._config = config
        self._max_gamma = max_gamma
        self._space = space
        self._rng = Random(config.seed)
        self._untried: list[DraftParameters] = []
        self._rejected: set[DraftParameters] = set()
        self._speedups: dict[SkipMask, float] = {}

    @property
    def seconds(self) -> float:
        """Expected time of the next proposal."""
        return self._config.suggestion_seconds if self._suggestion_is_next else 0.0

    def propose(self, current: DraftParameters) -> DraftParameters:
        """The next candidate."""
        suggested = self._suggestion_is_next
        self.count += 1
        if suggested:
            from skipopt.gaussian_process import suggest_mask

            mask = suggest_mask(self._space, self._speedups, self._rng)
            return replace(current, mask=mask)
        if not self._untried:
            neighbors = self._neighbors(current)
            self._untried = [each for each in neighbors if each not in self._rejected]
            self._rng.shuffle(self._untried)
        return self._untried.pop()

    def record(self, mask: SkipMask, speedup: float) -> None:
        """Keep a predicted speedup for later suggestions."""
        self._speedups[mask] = speedup

    def current_changed(self) -> None:
        """Forget the neighbors of the former parameters."""
        self._untried = []

    def reject(self, parameters: DraftParameters) -> None:
        """Do not propose these as a neighbor any more."""
        self._rejected.add(parameters)

    def accept_all(self) -> None:
        """Forget the rejections."""
        self._rejected = set()

    @property
    def _suggestion_is_next(self) -> bool:
        due = (self.count + 1) % self._config.suggest_every == 0
        return due and len(self._speedups) > 1

    def _neighbors(self, current: DraftParameters) -> list[DraftParameters]:
        gamma, tau, step = current.gamma, current.tau, self._config.tau_step
        gammas = {max(1, gamma - 1), min(self._max_gamma, gamma + 1)} - {gamma}
        taus = {max(0.0, tau - step), min(1.0, tau + step)} - {tau}
        return [
            *(replace(current, mask=mask) for mask in self._space.neighbors(current.mask)),
            *(replace(current, gamma=each) for each in sorted(gammas)),
            *(replace(current, tau=round(each, 4)) for each in sorted(taus)),
        ]
