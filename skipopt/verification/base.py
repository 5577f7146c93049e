"""What every verifier is given and must answer. Knows nothing of where drafts came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.tree import DraftTree
    from skipopt.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The tokens that stand, from the root down, and the target's own token after them.

    Attributes:
        path: indices of tokens of the draft, each the child of the one before.
        last_token: the target's own token after them.
    """

    path: tuple[int, ...]
    last_token: int


class Verifier(Protocol):
    """Judges a draft by the target's logits.

    Attributes:
        name: as options and results have it; begins with `relaxed` where it is not exact.
        coupled: the sampler must be coupled: tokens are chosen by position.
    """

    @property
    def name(self) -> str: ...

    @property
    def coupled(self) -> bool: ...

    def __call__(
        self, draft: DraftTree, logits: Tensor, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        """The verdict.

        Args:
            draft: B tokens.
            logits: the target's after the current token and after each draft.  # (1 + B, V)
            sampler: how tokens are chosen.
            position: absolute position of the token that follows the current one.
        """
        ...
