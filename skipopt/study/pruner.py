"""Texts are spent where it is close: a mask that is surely behind after a few sees no more.

Knows nothing of where masks come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from skipopt.scoring import Scorer, Trace

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial
    from skipopt.study.objective import Objective

FIRST = 4  # texts that every mask sees
DOUBT = 2.0  # standard errors that a mask must be behind by


class PairedPruner:
    """Scores masks on a few texts, and those that may win on the others, too.

    What a mask is worth that left early is estimated from its standing against the best on the
    texts that both have seen.
    """

    def __init__(self, target: Target, texts: Sequence[ScoredText], judge: Objective) -> None:
        # The last ones: samplers that look at texts look at the first, and would be overrated.
        rest, first = texts[:-FIRST], texts[-FIRST:]
        self._first = Scorer(target, first)
        self._rest = Scorer(target, rest) if any(t.continuation for t in rest) else None
        self._judge = judge
        self._best: Trial | None = None  # of those that have seen all texts
        self._begun: tuple[float, ...] = ()  # its values on the first texts
        self._early = 0.0  # and on all of them together

    def judge(self, masks: Sequence[SkipMask]) -> list[Trial]:
        """One trial per mask, in order."""
        traces = dict(zip(masks, self._first.score(masks), strict=True))
        begun = {mask: self._evaluate(mask, trace) for mask, trace in traces.items()}
        if self._rest is None:
            return [begun[mask][0] for mask in masks]
        near = [mask for mask in masks if not self._behind(begun[mask][1])]
        finished: dict[SkipMask, Trial] = {}
        for mask, rest in zip(near, self._rest.score(near), strict=True):
            finished[mask] = self._judge.evaluate(mask, Trace.concatenate([rest, traces[mask]]))
            self._take(finished[mask], *begun[mask])
        return [finished.get(mask) or self._estimated(begun[mask][0]) for mask in masks]

    def _behind(self, values: Sequence[float]) -> bool:
        """Is a mask with these values on the first texts surely worse than the best?"""
        leads = [ours - best for ours, best in zip(values, self._begun, strict=False)]
        if len(leads) < 2:
            return False
        error: float = stdev(leads) / len(leads) ** 0.5
        return fmean(leads) + DOUBT * error < 0

    def _take(self, trial: Trial, early: Trial, values: tuple[float, ...]) -> None:
        if self._best is None or trial.value > self._best.value:
            self._best, self._begun, self._early = trial, values, early.value

    def _estimated(self, early: Trial) -> Trial:
        """As far behind on all texts as on the first; never ahead of the best."""
        assert self._best is not None  # or nothing would be behind it
        share = self._best.value / self._early if self._early > 0 else 1.0
        value = min(early.value * share, self._best.value)
        prediction = early.prediction
        if prediction is not None and self._judge.config.objective == "speed":
            prediction = replace(prediction, speedup=value)
        return replace(early, value=value, prediction=prediction, pruned=True)

    def _evaluate(self, mask: SkipMask, trace: Trace) -> tuple[Trial, tuple[float, ...]]:
        trial = self._judge.evaluate(mask, trace)
        return trial, self._judge.per_text_values(trial, trace)
