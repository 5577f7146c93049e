"""What a trace is worth: the best (γ, τ) of a mask at today's prices, and its value.

Knows nothing of where masks come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skipopt.cost_model.costs import Costs
from skipopt.cost_model.replay import TAUS, best_prediction
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.scoring import Trace
from skipopt.storage.base import Trial
from skipopt.study.config import SearchConfig


@dataclass(frozen=True, slots=True)
class Objective:
    """Values traces as the plan has it.

    Attributes:
        levers: what drafts were made with, in traces and prices.
    """

    plan: SearchConfig
    costs: Costs
    draft_config: DraftConfig = UNCHANGED

    def __call__(self, mask: SkipMask, trace: Trace) -> Trial:
        """The mask's trial: with objective `speed` its value is the predicted speedup."""
        return self.weigh(mask, trace)[0]

    def weigh(self, mask: SkipMask, trace: Trace) -> tuple[Trial, tuple[float, ...]]:
        """The mask's trial, and its value on each text alone."""
        taus = TAUS if self.plan.tau is None else (self.plan.tau,)
        found = best_prediction(trace, mask, self.costs, self.plan.gamma, taus)
        facts: dict[str, Any] = {
            "predicted": found.speedup,
            "typical": found.typical,
            "gamma": found.gamma,
            "tau": found.tau,
            "acceptance_rate": found.acceptance_rate,
            "matchness": trace.matchness,
        }
        if self.draft_config:
            facts["draft_config"] = str(self.draft_config)
        if self.plan.objective == "speed":
            return Trial(mask, found.speedup, facts), found.each
        return Trial(mask, trace.matchness, facts), trace.matchness_of_each
