"""What speculation should gain, by arithmetic: from costs relative to a plain step, and rounds.

Leviathan et al. (arXiv 2211.17192, Theorem 3.8) count a verification as one plain step and every
draft as γ long; here a verification of n tokens costs v(n), and drafts may end early. Knows
nothing of how anything was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True)
class RelativeCosts:
    """Relative to one plain step.

    Attributes:
        draft: c, one draft step.
        verify: v(1), v(2), …: a round but for its draft steps.
    """

    draft: float
    verify: tuple[float, ...]

    def round(self, drafted: float) -> float:
        """A round that drafts so many tokens; between two priced lengths, in proportion.

        Raises:
            ValueError: longer than what was priced.
        """
        below = int(drafted)
        if drafted > len(self.verify) - 1:
            raise ValueError(f"v({drafted + 1:g}) was not priced, v({len(self.verify)}) was")
        above = min(below + 1, len(self.verify) - 1)
        share = drafted - below
        verify = (1 - share) * self.verify[below] + share * self.verify[above]
        return drafted * self.draft + verify


@dataclass(frozen=True, slots=True)
class Drafted:
    """What one round drafted, how much of it stood, and what it emitted."""

    drafted: int
    accepted: int
    emitted: int


def speedup_of_rounds(rounds: Sequence[Drafted], costs: RelativeCosts) -> float:
    """Tokens per round over the cost of a round, both means over the rounds that there were.

    It holds for drafts that end early (τ), and for acceptance that is not the same everywhere.
    """
    tokens = fmean(each.emitted for each in rounds)
    return tokens / fmean(costs.round(each.drafted) for each in rounds)


def speedup_if_independent(alpha: float, gamma: int, costs: RelativeCosts) -> float:
    """(1 − α^(γ+1)) / (1 − α) / (γ·c + v(γ + 1)): every draft γ long, every token alike."""
    tokens = sum(alpha**i for i in range(gamma + 1))
    return tokens / costs.round(gamma)


def alpha_of(rounds: Sequence[Drafted]) -> float | None:
    """α, the chance of one drafted token: accepted ones over those that were judged at all.

    What stands behind a rejected token is not judged. None where nothing was drafted.
    """
    accepted = sum(each.accepted for each in rounds)
    rejected = sum(each.accepted < each.drafted for each in rounds)
    return accepted / (accepted + rejected) if accepted + rejected else None


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of decoding, prefill apart: in all, in forwards while drafting, and in others."""

    whole: float
    draft_forwards: float
    other_forwards: float

    def shares(self) -> dict[str, float]:
        """Of the whole; `host` is what no forward took."""
        draft, verify = self.draft_forwards / self.whole, self.other_forwards / self.whole
        return {"draft_forwards": draft, "verify_forwards": verify, "host": 1 - draft - verify}


def total(parts: Sequence[Spent]) -> Spent:
    return Spent(
        sum(p.whole for p in parts),
        sum(p.draft_forwards for p in parts),
        sum(p.other_forwards for p in parts),
    )
