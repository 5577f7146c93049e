"""Verification by matching: a draft token is accepted if it is the token the target chooses.

Exact for every tree, whatever drafted it: all emitted tokens are the target's own choices, greedy
or sampled with the noise of their positions. The tree only decides how many of these choices one
forward yields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from skipopt.verification.base import VerifyResult

if TYPE_CHECKING:
    from skipopt.drafting.tree import DraftTree
    from skipopt.sampling import TokenSampler
    from skipopt.verification.target_rows import TargetRows


@dataclass(frozen=True, slots=True)
class Match:
    """Descends to the child that holds the target's choice; if there is none, emits the choice."""

    name: ClassVar[str] = "match"
    coupled: ClassVar[bool] = True

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        # Sampling takes time for each row, and rows after a rejected token are not emitted.
        on_demand = logits.on_demand or not sampler.greedy
        choices: list[int] = []
        if not on_demand:
            positions = [position, *(position + depth for depth in draft.depths())]
            choices = sampler.choose(logits.every(), positions)
        children = draft.children()
        path: list[int] = []
        node = -1
        while True:
            if on_demand:
                choice = sampler.choose(logits[node + 1][None], [position + len(path)])[0]
            else:
                choice = choices[node + 1]
            found = next((c for c in children.get(node, ()) if draft.tokens[c] == choice), None)
            if found is None:
                return VerifyResult(tuple(path), choice)
            path.append(found)
            node = found
