"""The prediction of every method that a validation may decode with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from skipopt.drafting.row_budget import MAX_DRAFT
from skipopt.study.config import LAYER_SKIP
from skipopt.study.copy_replay import predict_cascade, predict_suffix

if TYPE_CHECKING:
    from skipopt.cost_model.prediction import Prediction
    from skipopt.methods import MethodSpec
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText
    from skipopt.study.draft_config_search import Candidate
    from skipopt.study.rescoring import TimeToScore

SUFFIX, CASCADE = "suffix", "cascade"
LEAST_TEXTS = 2  # that the drafts of `cascade` are scored on, however short the time is


@dataclass(slots=True, eq=False)
class MethodPredictions:
    """Predicts methods with the drafts of candidates, from the calibration texts.

    Attributes:
        time: what is left for scoring.
    """

    target: Target
    texts: Sequence[ScoredText]
    candidates: Sequence[Candidate]
    time: Callable[[], TimeToScore]
    _suffix: Prediction | None = None
    _cascades: dict[int, Prediction] = field(default_factory=dict)

    def __call__(self, spec: MethodSpec, index: int) -> Prediction | None:
        """The prediction of a method with the drafts of a candidate; None where there is none."""
        if spec.name == LAYER_SKIP:
            return self.candidates[index].trial.prediction
        if spec.name == SUFFIX:
            return self.suffix
        if spec.name == CASCADE and self.candidates[index].trial.prediction is not None:
            if index not in self._cascades:
                self._cascades[index] = self._cascade(self.candidates[index])
            return self._cascades[index]
        return None

    @property
    def suffix(self) -> Prediction:
        """Of copies alone."""
        if self._suffix is None:
            self._suffix = predict_suffix(self.texts, self.candidates[0].costs)
        return self._suffix

    @property
    def nothing_pays(self) -> bool:
        """Whether neither a candidate nor copies may be faster than plain decoding."""
        drafts = [each.trial.prediction for each in self.candidates]
        return not any(each is not None and each.may_reach(1.0) for each in (*drafts, self.suffix))

    def _cascade(self, candidate: Candidate) -> Prediction:
        from skipopt.scoring import TextContexts, scorer_of

        trial, time = candidate.trial, self.time()
        assert trial.prediction is not None
        count = max(LEAST_TEXTS, time.fitting_texts(self.texts, 1))
        time.on_step()
        texts = self.texts[:count]
        contexts = time.contexts or TextContexts(self.target)
        scorer = scorer_of(contexts, texts, draft_config=trial.draft_config)
        (trace,) = scorer.score([trial.mask])
        gamma, tau = trial.prediction.gamma, trial.prediction.tau
        found = predict_cascade(texts, candidate.costs, trace, trial.mask, gamma, tau)
        # The drafter ends each draft where a step does not pay; γ only bounds it.
        return replace(found, gamma=MAX_DRAFT, tau=0.0)
