"""The interface of verifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from skipopt.drafting.tree import DraftTree
    from skipopt.rounds import LastToken
    from skipopt.sampling import TokenSampler
    from skipopt.verification.target_rows import TargetRows


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The accepted draft tokens, and the target's own token after them.

    Attributes:
        path: indices of the accepted tokens of the draft, each a child of the one before.
        last_token: the target's own token; see `last_is`.
    """

    path: tuple[int, ...]
    last_token: int

    def last_is(self, draft: DraftTree) -> LastToken:
        """`recovered` if draft tokens were rejected at the last position, else `bonus`."""
        return "recovered" if (self.path[-1] if self.path else -1) in draft.parents else "bonus"


class Verifier(Protocol):
    """Decides which tokens of a draft are accepted, from the target's logits.

    Attributes:
        name: as in options and results; begins with `relaxed` where the text is not exactly the
            target's.
        coupled: whether the sampler must be coupled, so that the token at a position depends on
            logits, seed and position alone.
    """

    @property
    def name(self) -> str: ...

    @property
    def coupled(self) -> bool: ...

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        """Verify one draft.

        Args:
            draft: B tokens.
            logits: the target's after the current token and after each draft. Where they are
                `on_demand`, only the rows of accepted tokens are read.
            sampler: how tokens are chosen.
            position: absolute position of the token that follows the current one.
        """
        ...
