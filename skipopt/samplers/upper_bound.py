"""The speedup of a mask if every draft token were accepted.

A mask that is too slow even then need not be scored. This is the condition of Leviathan et al.
(arXiv 2211.17192, §3.3) at an acceptance rate of 1, with measured costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.masks import SkipMask
from skipopt.samplers.dedup import UpperBound

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs


def speed_bound(costs: Costs) -> UpperBound:
    """A function that returns, for a mask, a speedup that no replay under `costs` exceeds.

    A round of n draft tokens costs n·step + verify(n + 1) and emits at most n + 1 tokens, and no
    text is decoded faster than its fastest round. n runs from 0, a plain step, to the longest
    draft with a measured cost, so the rounds of every γ and τ are among these. The bound holds for
    speedups under the same costs, not for matchness.
    """

    def bound(mask: SkipMask) -> float:
        step = costs.draft_step(mask)
        rates = ((n + 1) / (n * step + verify) for n, verify in enumerate(costs.verify))
        return costs.plain * max(rates)

    return bound
