"""The value of a mask, from its trace and the measured costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.cost_model.replay import TAUS, best_prediction
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.storage.base import Trial

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.masks import SkipMask
    from skipopt.scoring import Trace
    from skipopt.study.config import SearchConfig


@dataclass(frozen=True, slots=True)
class Objective:
    """Turns traces into trials, as the config asks.

    Attributes:
        costs: seconds of draft steps and of verification, for drafts made with `draft_config`.
        draft_config: what the drafts of the traces were made with, in addition to a mask.
    """

    config: SearchConfig
    costs: Costs
    draft_config: DraftConfig = UNCHANGED

    def evaluate(self, mask: SkipMask, trace: Trace) -> Trial:
        """The mask's trial at its best γ and τ.

        Its value is the predicted speedup (objective `speed`) or the matchness (`matchness`).
        """
        taus = TAUS if self.config.tau is None else (self.config.tau,)
        found = best_prediction(trace, mask, self.costs, self.config.gamma, taus)
        value = found.speedup if self.config.objective == "speed" else trace.matchness
        return Trial(mask, value, found, self.draft_config)

    def evaluate_all(self, masks: Sequence[SkipMask], traces: Sequence[Trace]) -> list[Trial]:
        """The trials of several masks, in order."""
        return [self.evaluate(m, t) for m, t in zip(masks, traces, strict=True)]

    def per_text_values(self, trial: Trial, trace: Trace) -> tuple[float, ...]:
        """The value on each text alone, of a trial that `evaluate` made from this trace."""
        if self.config.objective == "matchness" or trial.prediction is None:
            return trace.matchness_per_text
        return trial.prediction.per_text_speedups
