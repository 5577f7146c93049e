"""What decoding did: tokens, rounds, and the figures that are sums over rounds.

All statistics, displays and replays consume `Round`s. Knows nothing of models or printing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Token:
    """One emitted token: `from_draft` where an accepted draft proposed it."""

    id: int
    from_draft: bool


@dataclass(frozen=True, slots=True)
class Round:
    """One draft and one target forward.

    Attributes:
        drafted: the drafted tokens, in the draft's order.
        accepted: how many of them the target confirmed (before any cut by an end of text).
        emitted: the tokens this round added to the text: accepted drafts, then the target's own.
        draft_forwards: forwards of the draft (0 for drafters without a model).
        draft_seconds, verify_seconds: wall time of the two phases.
        stop: why the text ended with this round: `eos`, `length`, `context`, `stop`, or None.
        parents: index of each drafted token's parent, −1 for the current token; empty = a chain.
        path: indices of the accepted drafts; empty with accepted ones = a chain's first.
        origins: a word for each drafted token that tells where it came from, if the drafter does.
    """

    drafted: tuple[int, ...]
    accepted: int
    emitted: tuple[int, ...]
    draft_forwards: int = 0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    stop: str | None = None
    parents: tuple[int, ...] = ()
    path: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(Token(t, i < self.accepted) for i, t in enumerate(self.emitted))


@dataclass(slots=True)
class Statistics:
    """Sums over rounds, and the ratios the glossary names."""

    new_tokens: int = 0
    target_forwards: int = 0
    draft_forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    stop_reason: str | None = None
    accepted_lengths: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, rounds: Iterable[Round]) -> Statistics:
        total = cls()
        for each in rounds:
            total.add(each)
        return total

    def add(self, round_: Round) -> None:
        self.new_tokens += len(round_.emitted)
        self.target_forwards += 1
        self.draft_forwards += round_.draft_forwards
        self.drafted += len(round_.drafted)
        self.accepted += round_.accepted
        self.draft_seconds += round_.draft_seconds
        self.verify_seconds += round_.verify_seconds
        self.accepted_lengths.append(round_.accepted)
        self.stop_reason = round_.stop or self.stop_reason

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted / drafted; None where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def mean_accepted_length(self) -> float:
        """Accepted drafts per round, without the bonus token."""
        return self.accepted / max(1, self.target_forwards)

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per target forward, with the bonus token."""
        return self.new_tokens / max(1, self.target_forwards)
