"""Compare two settings of a draft by the rounds that each would have made on the same text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopt.cost_model.costs import Costs
from skipopt.cost_model.replay import SimulatedRounds
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.scoring import Trace

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DraftParameters:
    """What online tuning changes: the mask, draft length γ and confidence threshold τ.

    Attributes:
        draft_config: what makes drafts cheaper in addition to the mask; all candidates share it.
    """

    mask: SkipMask
    gamma: int
    tau: float
    draft_config: DraftConfig = UNCHANGED


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """A candidate against the current parameters.

    Attributes:
        gain: tokens per round beyond what the current parameters make in the same time.
        error: standard error of the gain.
        candidate_speed, current_speed: predicted tokens per second.
    """

    gain: float
    error: float
    candidate_speed: float
    current_speed: float


@dataclass(slots=True)
class _Rounds:
    """Simulated rounds of one side.

    Attributes:
        tokens: emitted, the target's own included.  # (N,)
        drafted: # (N,)
    """

    parameters: DraftParameters
    tokens: Integers
    drafted: Integers

    @classmethod
    def none(cls, parameters: DraftParameters) -> _Rounds:
        return cls(parameters, np.empty(0, np.int64), np.empty(0, np.int64))

    def add(self, trace: Trace, reach: int) -> None:
        """Rounds from every position that has `reach` tokens of the trace from there on."""
        own = self.parameters
        rounds = SimulatedRounds.of(trace, [own.gamma], [own.tau], text_continues=True)
        starts = np.s_[: max(0, int(trace.lengths[0]) - reach + 1), 0, 0, 0]
        self.tokens = np.append(self.tokens, rounds.accepted[starts] + 1)
        self.drafted = np.append(self.drafted, rounds.drafted[starts])

    def seconds(self, costs: Costs) -> Floats:
        own = self.parameters
        found: Floats = np.array(costs.chain_rounds(own.mask, own.tau))[self.drafted]
        return found


class PairedComparison:
    """One candidate against the current parameters, at the same positions of the same texts."""

    def __init__(self, candidate: DraftParameters, current: DraftParameters) -> None:
        self.candidate = candidate
        self.current = current
        self.reach = max(candidate.gamma, current.gamma)
        self._sides = _Rounds.none(candidate), _Rounds.none(current)

    def __len__(self) -> int:
        """Pairs of rounds."""
        return len(self._sides[0].tokens)

    def add(self, candidate: Trace, current: Trace) -> None:
        """Take in what both did on the same tokens of one text."""
        for side, trace in zip(self._sides, (candidate, current), strict=True):
            side.add(trace, self.reach)

    def result(self, costs: Costs) -> ComparisonResult:
        """The comparison at these costs.

        A round of t tokens and s seconds gains t − λ·s, where λ is the speed of the current
        parameters. The candidate's mean gain is positive if and only if its speed exceeds λ,
        however long its rounds are.
        """
        (t, s), (u, v) = ((side.tokens, side.seconds(costs)) for side in self._sides)
        speed, rate = float(t.sum() / s.sum()), float(u.sum() / v.sum())
        gains = (t - rate * s) - (u - rate * v)
        return ComparisonResult(*_mean_and_error(gains, self.reach), speed, rate)


def _mean_and_error(gains: Floats, reach: int) -> tuple[float, float]:
    """Mean gain and its standard error.

    One round that lost a token is added, so that a few lucky rounds prove little. Rounds that
    begin within `reach` positions of each other share tokens, so `reach` of them count as one
    sample. That is why the paired t test of `stats.significantly_worse` does not apply here: it
    takes every pair as independent, and would find differences in noise.
    """
    gains = np.append(gains, -1.0)
    return float(gains.mean()), float((gains.var(ddof=1) * reach / len(gains)) ** 0.5)
