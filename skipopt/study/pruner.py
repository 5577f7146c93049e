"""Scores masks, and prunes those that are significantly worse than the best on a few texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipopt.scoring import Scorer, Trace
from skipopt.stats import significantly_worse

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial
    from skipopt.study.objective import Objective


@dataclass(frozen=True, slots=True)
class _Incumbent:
    """The best mask that was scored on all texts.

    Attributes:
        trial: on all texts.
        first_value: its value on the first texts together.
        first_values: its values on each of them.
    """

    trial: Trial
    first_value: float
    first_values: tuple[float, ...]


class PairedPruner:
    """Scores every mask on the first texts, and on the others unless it is pruned.

    A mask is pruned if its values on the first texts are significantly lower than those of the
    best mask so far, text by text. The idea is that of `optuna.pruners.WilcoxonPruner`, with a
    single look.

    Note:
        There is one look per mask, at `SearchConfig.first_texts` texts, with level `prune_alpha`
        by `stats.significantly_worse`. The level is not corrected for the number of masks, so of
        many masks that are as good as the best, a share of about `prune_alpha` is pruned.

    The value of a pruned mask is estimated: as much lower than the best on all texts as it is on
    the first texts.

    Args:
        texts: those every mask is scored on, and how many of them come first, is set by the
            objective's config.
    """

    def __init__(self, target: Target, texts: Sequence[ScoredText], objective: Objective) -> None:
        # The first texts here are the last of `texts`: samplers that look at texts look at the
        # first of them, and their proposals would be overrated there.
        count = objective.config.first_texts
        rest, first = texts[:-count], texts[-count:]
        draft_config = objective.draft_config
        self._first = Scorer(target, first, draft_config=draft_config)
        more = any(text.continuation for text in rest)
        self._rest = Scorer(target, rest, draft_config=draft_config) if more else None
        self._objective = objective
        self._incumbent: _Incumbent | None = None

    def evaluate(self, masks: Sequence[SkipMask]) -> list[Trial]:
        """One trial per mask, in order."""
        traces = dict(zip(masks, self._first.score(masks), strict=True))
        first = {mask: self._objective.evaluate(mask, trace) for mask, trace in traces.items()}
        if self._rest is None:
            return [first[mask] for mask in masks]
        values = {m: self._objective.per_text_values(first[m], traces[m]) for m in traces}
        kept = [mask for mask in traces if not self._is_pruned(values[mask])]
        finished: dict[SkipMask, Trial] = {}
        for mask, rest in zip(kept, self._rest.score(kept), strict=True):
            trial = self._objective.evaluate(mask, Trace.concatenate([rest, traces[mask]]))
            finished[mask] = trial
            self._update(_Incumbent(trial, first[mask].value, values[mask]))
        return [finished.get(mask) or self._estimate(first[mask]) for mask in masks]

    def _is_pruned(self, values: Sequence[float]) -> bool:
        if self._incumbent is None:
            return False
        alpha = self._objective.config.prune_alpha
        return significantly_worse(values, self._incumbent.first_values, alpha)

    def _update(self, candidate: _Incumbent) -> None:
        if self._incumbent is None or candidate.trial.value > self._incumbent.trial.value:
            self._incumbent = candidate

    def _estimate(self, first: Trial) -> Trial:
        """The trial of a pruned mask, with a value not above the best."""
        best = self._incumbent
        assert best is not None  # without one, nothing is pruned
        ratio = best.trial.value / best.first_value if best.first_value > 0 else 1.0
        value = min(first.value * ratio, best.trial.value)
        prediction = first.prediction
        if prediction is not None and self._objective.config.objective == "speed":
            prediction = replace(prediction, speedup=value)
        return replace(first, value=value, prediction=prediction, pruned=True)
