"""What a mask could reach at most: its speedup if every draft were accepted.

The least a search can do before it scores a mask: one that loses even with perfect acceptance
cannot win (the sound half of Leviathan et al., arXiv 2211.17192, §3.3, with measured prices).
Knows nothing of what a mask really drafts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.masks import SkipMask
from skipopt.samplers.dedup import Bound

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs


def speed_bound(costs: Costs) -> Bound:
    """For each mask, a speedup that no replay of it under these prices exceeds.

    A round of n drafts costs n·step + verify(n + 1) and gives at most n + 1 tokens; no text is
    faster than its fastest round. n runs from 0, which is a plain step, to the longest priced
    draft: whatever γ and τ, replay's rounds are among these. Holds for values that are speedups
    under the same prices, not for matchness.
    """

    def bound(mask: SkipMask) -> float:
        step = costs.draft_step(mask)
        rates = ((n + 1) / (n * step + verify) for n, verify in enumerate(costs.verify))
        return costs.plain * max(rates)

    return bound
