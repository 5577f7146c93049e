"""The interface of drafters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.tree import DraftTree
from skipopt.logits_processing import LogitsProcessing

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.online.state import OnlineState
    from skipopt.runtime.break_even import Preparation
    from skipopt.runtime.engine import Engine
    from skipopt.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class DraftState:
    """What a drafter may use.

    Attributes:
        tokens: prompt and text so far; the last one is the current token, not yet in the cache.
            Not to be changed.
        engine: runs forwards; its position is len(tokens) − 1 and must be so again afterwards.
        sampler: chooses tokens.
        processing: what changes logits before.
    """

    tokens: list[int]
    engine: Engine
    sampler: TokenSampler
    processing: LogitsProcessing = field(default_factory=LogitsProcessing)

    @property
    def takes_likeliest(self) -> bool:
        """Whether the token to draft is always the one with the largest logit."""
        return self.sampler.greedy and not self.processing.changes_drafts

    def processed(self, logits: Tensor, branches: Sequence[Sequence[int]]) -> Tensor:
        """Logits of a draft model as they are to be sampled from.  # (n, V) -> (n, V)

        Without it a text is still the target's; fewer drafted tokens are accepted.

        Args:
            branches: for each row the drafted tokens that lead to it, its own included.
        """
        return self.processing.draft_rows(logits, self.tokens, branches)


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """The result of one round.

    Attributes:
        draft: what was proposed.
        path: indices of the accepted tokens, from the root down.
        emitted: accepted tokens and the target's own, up to the end of the text.
        logits: the target's, after the current token, each of B drafted tokens and each of E extra
            rows.  # (1 + B + E, V)
        hidden: the input of the output projection for the same rows, (1 + B + E, d); None unless
            the drafter `wants_hidden`.
        draft_seconds, verify_seconds: wall time of the two phases.
    """

    draft: DraftTree
    path: tuple[int, ...]
    emitted: tuple[int, ...]
    logits: Tensor
    hidden: Tensor | None = None
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0

    @property
    def last_row(self) -> int:
        """The row of `logits` that the target's own token was chosen from."""
        return self.path[-1] + 1 if self.path else 0


class Drafter(ABC):
    """Proposes the next tokens of a text. A new one is made for every text.

    Attributes:
        best_verifier: the verifier to use unless the user names one. `rejection` accepts more than
            `match` only for tokens drawn from draft probabilities.
        wants_hidden: whether `RoundOutcome.hidden` is needed.
        max_extra_rows: the most rows, in addition to the current token, that its drafts, extra
            rows or own forwards put into the cache.
        preparation: what its first draft needs that takes time to make; None for nothing.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "match"
    wants_hidden: bool = False
    max_extra_rows: int = 0
    preparation: Preparation | None = None

    @abstractmethod
    def propose(self, state: DraftState, limit: int) -> DraftTree:
        """Draft a tree no deeper than `limit`, which may be 0, below the current token."""

    def observe(self, outcome: RoundOutcome) -> None:
        """Called after each round with its outcome."""
        return


class OnlineDrafter(Drafter):
    """A drafter that learns while decoding.

    Attributes:
        online_state: what it has learned; the drafter of a later text may go on with it.
    """

    online_state: OnlineState
