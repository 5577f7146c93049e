"""Drafts by hand, predicted as a search predicts them: for benchmarks that decode with many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from benchmarks.workloads import encode
from skipopt.cost_model.prediction import Prediction
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import MaskSpace, SkipMask
from skipopt.measurement.runners import SkipoptRunner
from skipopt.measurement.workload import Workload
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.runtime.draft_mode import unsupported_reasons, with_vocabulary
from skipopt.samplers.registry import make_sampler
from skipopt.scoring import TextContexts
from skipopt.study.calibration import CalibrationTexts, calibrate, split_prompts
from skipopt.study.config import SearchConfig
from skipopt.study.cost_source import MeasuredCosts
from skipopt.study.draft_config_search import Candidate, DraftConfigSearch
from skipopt.study.method_predictions import MethodPredictions
from skipopt.study.objective import Objective
from skipopt.study.rescoring import TimeToScore, score_full_drafts, score_texts


@dataclass(frozen=True, slots=True)
class Drafts:
    """What a method drafts with.

    Attributes:
        name: in results.
        method: `layer-skip`, `cascade` or `suffix`.
        gamma: most tokens of a draft; None: the best by prediction.
    """

    name: str
    method: str
    mask: SkipMask
    draft_config: DraftConfig = UNCHANGED
    gamma: int | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """Drafts with γ, τ and the prediction of decoding alone."""

    drafts: Drafts
    gamma: int
    tau: float
    prediction: Prediction

    def runner(self, target: Target) -> SkipoptRunner:
        """Decodes with them, under their name."""
        drafts = self.drafts
        profile = Profile.build(
            target,
            drafts.mask,
            method=drafts.method,
            gamma=self.gamma,
            tau=self.tau,
            draft_config=drafts.draft_config,
        )
        return SkipoptRunner(target, MethodSpec(drafts.method), profile, name=drafts.name)


class Predictor:
    """Predicts drafts from the calibration prompts of the built-in set for the model.

    Args:
        tokens: of each calibration text.
        texts: most calibration texts; None: as many as a search takes.
        log: called with a line about what is not tried.
    """

    def __init__(
        self, target: Target, tokens: int, texts: int | None, log: Callable[[str], None]
    ) -> None:
        self.target = target
        self.config = SearchConfig()
        self.log = log
        parts = split_prompts(load_prompts(model_id=target.model_id), self.config)
        to_score, self._to_validate = parts
        self._tokens = tokens
        self.texts = self._calibrate(encode(target, to_score[:texts]))
        self._contexts = TextContexts(target)

    def _calibrate(
        self, prompts: Sequence[Sequence[int]], categories: Sequence[str | None] = ()
    ) -> CalibrationTexts:
        return calibrate(self.target, prompts, self._tokens, lambda: None, categories=categories)

    def validation(self, prompts: int) -> Workload:
        """The first prompts that the finalists of a search decode."""
        chosen = self._to_validate[:prompts]
        categories = [prompt.category for prompt in chosen]
        return self._calibrate(encode(self.target, chosen), categories).workload

    @cached_property
    def _time(self) -> TimeToScore:
        """No limit."""
        return TimeToScore(contexts=self._contexts)

    def predict(self, drafts: Drafts) -> Predicted:
        """Measure the costs of the drafts, and score them as a search scores its finalists."""
        candidate = self._candidate(drafts)
        predict = MethodPredictions(self.target, self.texts.texts, [candidate], lambda: self._time)
        prediction = predict(MethodSpec(drafts.method), 0)
        own = candidate.trial.prediction
        assert prediction is not None, "the method is one that is predicted"
        assert own is not None, "the trial is not one of another storage"
        return Predicted(drafts, own.gamma, own.tau, prediction)

    def _candidate(self, drafts: Drafts) -> Candidate:
        """With full drafts where a mask is skipped, as a search does."""
        config = replace(self.config, gamma=drafts.gamma)
        texts = self.texts.texts
        found = self._search(config).try_one(drafts.mask, drafts.draft_config, texts, self._time)
        if not drafts.mask.skipped:
            return found
        objective = Objective(config, found.costs, drafts.draft_config)
        (trial,) = score_full_drafts(self._contexts, [drafts.mask], texts, objective)
        return Candidate(trial, found.costs)

    def _search(self, config: SearchConfig) -> DraftConfigSearch:
        return DraftConfigSearch(
            self._contexts,
            config,
            MeasuredCosts(),
            self.texts.median_text,
            self._time,
            self.log,
        )

    def supports(self, draft_config: DraftConfig) -> bool:
        """Whether this machine and model can draft so; if not, the reason is told."""
        reasons = unsupported_reasons(self.target, draft_config)
        for part, reason in reasons.items():
            self.log(f"{part} is not tried: {reason}")
        return not reasons

    def with_vocabulary(self, draft_config: DraftConfig) -> DraftConfig:
        """With the tokens of its vocabulary, the most frequent of the calibration texts."""
        return with_vocabulary(
            self.target, draft_config, [text.tokens for text in self.texts.texts]
        )

    def masks(
        self, draft_config: DraftConfig = UNCHANGED, more: int = 16, texts: int = 4
    ) -> list[tuple[SkipMask, float]]:
        """Masks of a leave-one-out search with their predicted speedups, best first.

        Each sublayer is skipped alone, then the first of this ranking together.

        Args:
            more: masks that skip several sublayers.
            texts: on which masks are scored, with drafts of one token.
        """
        search = self._search(self.config)
        costs = search.measure_costs(draft_config, self.config.cost_seconds, self._time)
        objective = Objective(self.config, costs, draft_config)
        sampler = make_sampler("leave-one-out", MaskSpace(self.target.depth), 0)
        scored, trials = self.texts.texts[:texts], 2 * self.target.depth + more
        values: dict[SkipMask, float] = {}
        while len(values) < trials and (masks := sampler.ask(self.config.batch_size)):
            for trial in score_texts(self._contexts, masks, scored, objective):
                values[trial.mask] = trial.value
                sampler.tell(trial.mask, trial.value)
            self.log(f"{len(values)} of {trials} masks scored")
        skipping = [(mask, value) for mask, value in values.items() if mask.skipped]
        return sorted(skipping, key=lambda each: -each[1])


def spread(masks: Sequence[tuple[SkipMask, float]], count: int, least: float) -> list[SkipMask]:
    """Masks whose values are spread evenly, from the best one down to a share of its value.

    Args:
        masks: with their values, best first; at least `count` of them.
        least: this share.
    """
    best, worst = masks[0][1], max(masks[-1][1], least * masks[0][1])
    chosen: list[SkipMask] = []
    for number in range(count):
        wanted = best - (best - worst) * number / max(1, count - 1)
        free = [each for each in masks if each[0] not in chosen]
        chosen.append(min(free, key=lambda each: abs(each[1] - wanted))[0])
    return chosen
