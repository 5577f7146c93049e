"""What decoding did: tokens, rounds, and statistics over rounds.

Statistics, displays and replays are all computed from `Round`s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

LastToken = Literal["recovered", "bonus"]


@dataclass(frozen=True, slots=True)
class Token:
    """One emitted token; `from_draft` tells whether it is an accepted draft token."""

    id: int
    from_draft: bool


@dataclass(frozen=True, slots=True, repr=False)
class Round:
    """One draft and one target forward.

    Attributes:
        drafted: the draft tokens, in the draft's order.
        accepted: how many of them were accepted, including those after an end-of-text token,
            which are not emitted.
        emitted: the tokens this round added to the text: accepted draft tokens, then the target's
            own one.
        draft_forwards: forwards of the draft (0 for drafters without a model).
        draft_seconds, verify_seconds: wall time of the two phases.
        stop: why the text ended with this round: `eos`, `length`, `context`, `stop`, or None.
        parents: index of each draft token's parent, −1 for the current token; if empty, the
            draft is a chain.
        path: indices of the accepted draft tokens; if empty, the first `accepted` ones.
        sources: for each draft token, a word that says where it came from; may be empty.
        put_off: nothing was drafted because drafts did not pay back their preparation yet.
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
    put_off: bool = False

    def __repr__(self) -> str:
        return f"Round({self.accepted} of {len(self.drafted)} drafted, emitted {self.emitted})"

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The emitted tokens."""
        return tuple(Token(t, i < self.accepted) for i, t in enumerate(self.emitted))

    @property
    def origins(self) -> tuple[str, ...]:
        """Where each emitted token came from.

        An accepted draft token has its word of `sources`, or `draft` where there is none; the
        target's own is `recovered`, `bonus`, or `target` where nothing was drafted.
        """
        path = self.path or range(self.accepted)
        kept = list(path)[: len(self.emitted)]
        accepted = [self.sources[i] if self.sources else "draft" for i in kept]
        own = (self.last_is or "target") if self.drafted else "target"
        return (*accepted, *[own] * (len(self.emitted) - len(kept)))

    @property
    def last_is(self) -> LastToken | None:
        """What the target's own token is: `recovered` after a rejection, `bonus` after none.

        None where the text ended before it.
        """
        if len(self.emitted) <= self.accepted:
            return None
        last = self.path[-1] if self.path else self.accepted - 1
        return "recovered" if last in self._parents else "bonus"

    @property
    def depth(self) -> int:
        """Levels of the draft: the most tokens that could have been accepted."""
        depths: list[int] = []
        for parent in self._parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return max(depths, default=0)

    @property
    def _parents(self) -> tuple[int, ...]:
        return self.parents or tuple(range(-1, len(self.drafted) - 1))


@dataclass(slots=True, repr=False)
class Statistics:
    """Sums over rounds and the usual ratios of them.

    Attributes:
        drafting_rounds: rounds that drafted at least one token.
        accepted_at: by position in the draft, in how many rounds a token was accepted there.
        put_off_tokens: emitted before drafts paid back their preparation.
    """

    new_tokens: int = 0
    target_forwards: int = 0
    draft_forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    stop_reason: str | None = None
    drafting_rounds: int = 0
    accepted_at: list[int] = field(default_factory=list)
    put_off_tokens: int = 0

    def __repr__(self) -> str:
        return (
            f"Statistics({self.new_tokens} tokens in {self.target_forwards} forwards, "
            f"{self.accepted} of {self.drafted} drafted accepted)"
        )

    @classmethod
    def of(cls, rounds: Iterable[Round]) -> Statistics:
        """The statistics of these rounds."""
        total = cls()
        for each in rounds:
            total.add(each)
        return total

    def add(self, round_: Round) -> None:
        """Include one more round."""
        self.new_tokens += len(round_.emitted)
        self.target_forwards += 1
        self.draft_forwards += round_.draft_forwards
        self.drafted += len(round_.drafted)
        self.accepted += round_.accepted
        self.draft_seconds += round_.draft_seconds
        self.verify_seconds += round_.verify_seconds
        self.stop_reason = round_.stop or self.stop_reason
        self.drafting_rounds += bool(round_.drafted)
        self.put_off_tokens += len(round_.emitted) if round_.put_off else 0
        self.accepted_at += [0] * (round_.depth - len(self.accepted_at))
        for position in range(round_.accepted):
            self.accepted_at[position] += 1

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted / drafted tokens; None if nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def acceptance_by_position(self) -> tuple[float, ...]:
        """By position in the draft, the share of drafting rounds with a token accepted there."""
        return tuple(count / self.drafting_rounds for count in self.accepted_at)

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per target forward, the target's own ones included (block efficiency)."""
        return self.new_tokens / max(1, self.target_forwards)
