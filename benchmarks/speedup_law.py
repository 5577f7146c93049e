"""The speedup that costs and acceptance give by arithmetic.

Leviathan et al. (arXiv 2211.17192, Theorem 3.8) count a verification as one plain step, and every
draft as γ tokens long. Here a verification of n tokens costs v(n), and drafts may end early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True)
class RelativeCosts:
    """Costs in plain steps.

    Attributes:
        draft: c, one draft step.
        verify: v(1), v(2), …: a round without its draft steps.
    """

    draft: float
    verify: tuple[float, ...]

    def round(self, drafted: float) -> float:
        """A round with so many drafted tokens; linear between two measured lengths.

        Raises:
            ValueError: longer than what was measured.
        """
        below = int(drafted)
        if drafted > len(self.verify) - 1:
            raise ValueError(
                f"v({drafted + 1:g}) was not measured, only up to v({len(self.verify)})"
            )
        above = min(below + 1, len(self.verify) - 1)
        share = drafted - below
        verify = (1 - share) * self.verify[below] + share * self.verify[above]
        return drafted * self.draft + verify


@dataclass(frozen=True, slots=True)
class RoundCounts:
    """How many tokens one round drafted, accepted and emitted."""

    drafted: int
    accepted: int
    emitted: int


def speedup_of_rounds(rounds: Sequence[RoundCounts], costs: RelativeCosts) -> float:
    """Mean tokens per round ÷ mean cost of a round.

    Holds for drafts that end early (τ), and where acceptance varies with the position.
    """
    tokens = fmean(each.emitted for each in rounds)
    return tokens / fmean(costs.round(each.drafted) for each in rounds)


def speedup_if_independent(alpha: float, gamma: int, costs: RelativeCosts) -> float:
    """(1 − α^(γ+1)) / (1 − α) / (γ·c + v(γ + 1)): drafts of γ tokens, each accepted with α."""
    tokens = sum(alpha**i for i in range(gamma + 1))
    return tokens / costs.round(gamma)


def alpha_of(rounds: Sequence[RoundCounts]) -> float | None:
    """α, the probability that a drafted token is accepted: accepted ÷ (accepted + rejected).

    Tokens behind a rejected one are not verified and do not count. None where nothing was drafted.
    """
    accepted = sum(each.accepted for each in rounds)
    rejected = sum(each.accepted < each.drafted for each in rounds)
    return accepted / (accepted + rejected) if accepted + rejected else None


@dataclass(frozen=True, slots=True)
class DecodingSeconds:
    """Seconds of decoding without prefill: all of it, draft forwards, other forwards."""

    whole: float
    draft_forwards: float
    other_forwards: float

    @classmethod
    def sum_of(cls, parts: Iterable[DecodingSeconds]) -> DecodingSeconds:
        every = list(parts)
        return cls(
            sum(each.whole for each in every),
            sum(each.draft_forwards for each in every),
            sum(each.other_forwards for each in every),
        )

    def shares(self) -> dict[str, float]:
        """Shares of the whole; `host` is the time outside of forwards."""
        draft, verify = self.draft_forwards / self.whole, self.other_forwards / self.whole
        return {"draft_forwards": draft, "verify_forwards": verify, "host": 1 - draft - verify}
