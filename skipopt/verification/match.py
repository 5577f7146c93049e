"""A draft stands where it is the token that the target chooses itself.

Exact for any tree, however it came about: what is emitted is always the target's own choice,
greedy or with the noise of its position; the tree only decides how many of these choices one
forward yields. Knows nothing of draft probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from skipopt.verification.base import VerifyResult

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.drafting.tree import DraftTree
    from skipopt.sampling import TokenSampler


@dataclass(frozen=True, slots=True)
class Match:
    """Descend to the child that carries the target's choice; where there is none, emit it."""

    name: ClassVar[str] = "match"
    coupled: ClassVar[bool] = True

    def __call__(
        self, draft: DraftTree, logits: Tensor, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        positions = [position, *(position + depth for depth in draft.depths())]
        choices = sampler.choose(logits, positions)
        children = draft.children()
        path: list[int] = []
        node = -1
        while True:
            wanted = choices[node + 1]
            found = next((c for c in children.get(node, ()) if draft.tokens[c] == wanted), None)
            if found is None:
                return VerifyResult(tuple(path), wanted)
            path.append(found)
            node = found
