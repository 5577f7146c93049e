"""Scores masks on a few positions first, and on more only those that are close to the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipopt.scoring import Scorer, StagedScorer, TextContexts, Trace, stages
from skipopt.scoring.staged_scorer import Stage
from skipopt.stats import significantly_worse

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial
    from skipopt.study.config import SearchConfig
    from skipopt.study.objective import Objective


@dataclass(frozen=True, slots=True)
class _Score:
    """What a mask reached on the positions up to a stage: together, and on each text."""

    trial: Trial
    per_text: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Incumbent:
    """The best mask that was scored on all positions, with its scores at every stage."""

    mask: SkipMask
    scores: tuple[_Score, ...]

    @property
    def value(self) -> float:
        """On all positions."""
        return self.scores[-1].trial.value


class SuccessiveHalving:
    """Scores every mask at the first stage of positions, and the best of them at the next ones.

    A mask goes on unless its values are significantly lower than those of the best mask so far at
    the same positions, text by text, or it is not among the best 1/η of all masks at this stage
    (asynchronous successive halving: Li et al., arXiv 1810.05934, §3.2).

    Note:
        There is one test per mask and stage, with level `prune_alpha` by
        `stats.significantly_worse`. The level is not corrected for the number of masks.

    The value of a mask that does not go on is estimated: as much lower than the best on all
    positions as it is on those that it was scored on.

    Args:
        contexts: of the target.
        texts: those masks are scored on. How many positions make a stage, and η, are set by the
            objective's config.
        reference: a mask to compare the first ones with, such as the empty one where the draft
            configuration alone is worth something; None where there is no such mask.
    """

    def __init__(
        self,
        contexts: TextContexts,
        texts: Sequence[ScoredText],
        objective: Objective,
        reference: SkipMask | None = None,
    ) -> None:
        scorer = Scorer(
            contexts.target, texts, draft_config=objective.draft_config, contexts=contexts
        )
        self._scorer = StagedScorer(scorer, _plan(objective.config, *scorer.shape))
        self._objective = objective
        self._values: list[list[float]] = [[] for _ in range(len(self._scorer))]
        self._incumbent: _Incumbent | None = None
        self._reference = reference

    def evaluate(self, masks: Sequence[SkipMask]) -> list[Trial]:
        """One trial per mask, in order."""
        self._score_reference()
        alive = list(dict.fromkeys(masks))
        scores: dict[SkipMask, tuple[_Score, ...]] = dict.fromkeys(alive, ())
        traces: list[Trace] | None = None
        for stage in range(len(self._scorer)):
            traces = self._scorer.extend(stage, alive, traces)
            for mask, trace in zip(alive, traces, strict=True):
                scores[mask] = (*scores[mask], self._score(mask, trace))
            kept = self._kept(stage, [scores[mask][-1] for mask in alive])
            alive, traces = [alive[i] for i in kept], [traces[i] for i in kept]
        for mask in alive:
            self._update(_Incumbent(mask, scores[mask]))
        return [
            scores[mask][-1].trial if mask in alive else self._estimate(scores[mask])
            for mask in masks
        ]

    def _score_reference(self) -> None:
        """Score the reference mask at all stages, and keep its states for sparse masks."""
        mask = self._reference
        if mask is None or self._incumbent is not None:
            return
        scores: list[_Score] = []
        traces: list[Trace] | None = None
        for stage in range(len(self._scorer)):
            self._scorer.keep(stage, [mask])
            traces = self._scorer.extend(stage, [mask], traces)
            scores.append(self._score(mask, traces[0]))
        self._incumbent = _Incumbent(mask, tuple(scores))

    def _score(self, mask: SkipMask, trace: Trace) -> _Score:
        trace = trace.scored_texts
        trial = self._objective.evaluate(mask, trace)
        return _Score(trial, tuple(self._objective.per_text_values(trial, trace)))

    def _kept(self, stage: int, scores: Sequence[_Score]) -> list[int]:
        """The indices of the masks that go on to the next stage; all after the last one."""
        if stage == len(self._scorer) - 1:
            return list(range(len(scores)))
        values = self._values[stage]
        values += [score.trial.value for score in scores]
        count = max(1, len(values) // self._objective.config.reduction_factor)
        least = sorted(values, reverse=True)[count - 1] if values else 0.0
        return [
            i
            for i, score in enumerate(scores)
            if score.trial.value >= least and not self._is_worse(stage, score)
        ]

    def _is_worse(self, stage: int, score: _Score) -> bool:
        """Significantly, than the best mask so far at the same positions."""
        if self._incumbent is None:
            return False
        best = self._incumbent.scores[stage].per_text
        return significantly_worse(score.per_text, best, self._objective.config.prune_alpha)

    def _update(self, candidate: _Incumbent) -> None:
        if self._incumbent is not None and candidate.value <= self._incumbent.value:
            return
        self._incumbent = candidate
        # The next masks are neighbors of this one, or sparse.
        reference = [] if self._reference is None else [self._reference]
        self._scorer.keep(0, [*reference, candidate.mask])

    def _estimate(self, scores: Sequence[_Score]) -> Trial:
        """The trial of a mask that did not go on, with a value not above the best."""
        last, best = scores[-1].trial, self._incumbent
        if best is None:
            return replace(last, pruned=True)
        same = best.scores[len(scores) - 1].trial.value
        ratio = best.value / same if same > 0 else 1.0
        value = min(last.value * ratio, best.value)
        prediction = last.prediction
        if prediction is not None and self._objective.config.objective == "speed":
            prediction = replace(prediction, speedup=value)
        elif prediction is not None:
            prediction = replace(prediction, matchness=value)
        return replace(last, value=value, prediction=prediction, pruned=True)


def rows_per_mask(config: SearchConfig, lengths: Sequence[int]) -> float:
    """Rows that a mask is scored on, on average.

    One in η goes on from each stage. That masks share their first layers is not counted: for
    sparse masks it is about a half.

    Args:
        lengths: positions of each text.
    """
    if not lengths:
        return 0.0
    rows = 0.0
    for number, stage in enumerate(_plan(config, len(lengths), max(lengths))):
        count = sum(
            max(0, min(length, part.end) - part.begin)
            for part in stage
            for length in lengths[part.first : part.last]
        )
        rows += count / config.reduction_factor**number
    return rows


def _plan(config: SearchConfig, texts: int, positions: int) -> list[Stage]:
    return stages(
        texts, positions, config.first_texts, config.first_positions, config.more_positions
    )
