"""A whole search: calibrate, measure costs, optimize, rescore, validate, write a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.measurement.workload import OnlyRepetition
from skipopt.methods import METHODS
from skipopt.samplers.registry import NEED_CONTEXT, make_sampler
from skipopt.storage.base import InMemoryStorage, Trial
from skipopt.storage.journal import damage_note
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import join_message, locate_study
from skipopt.storage.workers import DistributedConfig
from skipopt.study import off_reason
from skipopt.study.calibration import CalibrationTexts, calibrate, measure_pace, split_prompts
from skipopt.study.config import LAYER_SKIP, SearchConfig, check_context_lengths
from skipopt.study.cost_source import CostSource, MeasuredCosts
from skipopt.study.draft_search import DraftSearch
from skipopt.study.interrupted import Interrupted
from skipopt.study.method_predictions import MethodPredictions
from skipopt.study.needs import Estimator
from skipopt.study.options import SearchOptions, override
from skipopt.study.progress import OnProgress, ProgressReporter
from skipopt.study.search_prompts import prompt_set, tokenize, used_prompts
from skipopt.study.time_plan import Deadline, Pace, TimePlan
from skipopt.study.to_profile import (
    SearchCost,
    SearchResult,
    UsedPrompts,
    baselines,
    best_mask,
    to_profile,
)

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.prompts import PromptSet
    from skipopt.study.ablation import Gain, Part
    from skipopt.study.draft_config_search import Candidate
    from skipopt.study.validation import Validated

OnNote = Callable[[str], None]

# Shares of the time of a phase:
TEXTS_SHARE = 0.2  # texts of the validation prompts
DECODING_SHARE = 0.8  # decoding them; the rest is for the prediction and costs of the winner
ABLATION_SHARE = 0.5  # predicting parts of the winner's drafts alone
FEW_PROMPTS = 4  # that all finalists decode, and plain decoding, before any is dropped
# What measuring the costs of trees and longer texts takes: lengths of the text, and steps.
TREE_COST_CONTEXTS, TREE_COST_STEPS = 10, 100


def search(
    target: Target,
    prompts: PromptSet | Sequence[str] | None = None,
    config: SearchConfig | None = None,
    *,
    journal: Path | None = None,
    resume: bool = False,
    distributed: DistributedConfig | None = None,
    on_progress: OnProgress = lambda progress: None,
    on_note: OnNote = lambda line: None,
    cost_source: CostSource | None = None,
    **options: Unpack[SearchOptions],
) -> Profile:
    """Find which sublayers to skip while drafting, and how many tokens to draft.

    Args:
        prompts: the calibration and validation parts are used, the held-out part never; None:
            the built-in set for the model.
        config: all options with their defaults.
        options: fields of `config` to replace, such as `trials=400` or
            `search_space=("skip", "int8")`.
        journal: file to which each trial is appended at once.
        resume: take the trials in `journal` into account, instead of refusing a file with trials.
        distributed: more workers, and the storage that they share; by default `journal`. A study
            that is already on the storage is joined.
        on_progress: called often.
        on_note: called with a line about the plan of the search, about other workers, or about a
            part of the search space that is left out.
        cost_source: gives the costs of drafting; by default they are measured.

    Returns:
        The profile; with `enabled` false and a reason where speculation does not pay.

    Raises:
        Interrupted: on KeyboardInterrupt, with the best profile so far.
        SkipoptError: bad input, before anything is measured where possible; a timeout that is too
            short for any answer, after a few tokens.
    """
    config = override(config, options).for_target(target)
    distributed = distributed or DistributedConfig()
    given = prompt_set(target, prompts)
    _check(target, config)
    parts = split_prompts(given, config)
    to_score, to_validate = (tokenize(target, part) for part in parts)
    used = used_prompts(target, given, [*parts[0], *parts[1]])
    identity = config.identity(target, used.identity)
    location = locate_study(target, distributed, journal, identity, resume)
    if location is not None and (note := damage_note(Path(location.storage))):
        on_note(note)
    with closing(InMemoryStorage() if location is None else OptunaStorage(location)) as storage:
        if location is not None and distributed.storage is not None:
            on_note(join_message(distributed.study, location, len(storage.trials())))
        progress = ProgressReporter(TimePlan(config.timeout, config.longest_plan), on_progress)
        costs = cost_source or MeasuredCosts()
        drafts = DraftSearch(
            target, config, storage, location, distributed, costs, progress, on_note
        )
        categories = [prompt.category for prompt in parts[1]]
        study = _Study(target, config, used, costs, progress, on_note, drafts, categories)
        try:
            return study.profile(study.run(to_score, to_validate))
        except KeyboardInterrupt:
            raise Interrupted(study.interrupted_profile(storage.trials())) from None


@dataclass(slots=True, eq=False)
class _Study:
    """One search: what it works with, and its phases in their order.

    Attributes:
        drafts: finds what the finalists draft with.
        categories: of the prompts that the finalists decode.
    """

    target: Target
    config: SearchConfig
    prompts: UsedPrompts
    cost_source: CostSource
    progress: ProgressReporter
    on_note: OnNote
    drafts: DraftSearch
    categories: Sequence[str | None]

    def run(
        self, to_score: Sequence[Sequence[int]], to_validate: Sequence[Sequence[int]]
    ) -> SearchResult:
        """All phases.

        Args:
            to_score: prompts on whose texts masks are scored; token ids.
            to_validate: prompts that the finalists decode.
        """
        self.progress.enter("calibrate")
        self._make_plan(to_score, to_validate)
        try:
            texts = self._calibrate(to_score, self.plan.deadline)
        except OnlyRepetition:
            return self._only_repetition(to_score[0])
        self.progress.enter("costs")
        self._leave_out_masks(texts)
        alone, base = self.drafts.try_draft_configs(texts)
        self.progress.enter("search")
        trials = self.drafts.optimize(texts, alone, base)
        candidates = self.drafts.finalists(trials, texts, alone, base)
        costs = base.costs if base is not None else candidates[0].costs
        mask = best_mask([*(each.trial for each in candidates), *trials])
        predictions = MethodPredictions(self.target, texts.texts, candidates, self.drafts.time)
        if self.config.objective == "speed" and predictions.nothing_pays:
            return replace(self._no_predicted_gain(predictions, texts), candidate=mask)
        deadline = self.progress.enter("validate")
        try:
            validation_texts = self._calibrate(
                to_validate, deadline.part(TEXTS_SHARE), self.categories
            )
        except OnlyRepetition:
            return replace(self._only_repetition(to_validate[0], costs), candidate=mask)
        results = self._validate(candidates, validation_texts, predictions, deadline)
        if not results:
            return replace(self._no_predicted_gain(predictions, texts), candidate=mask)
        result = self._result(candidates, results, texts, validation_texts, costs)
        if result.off_reason is None:
            result = replace(result, gains=self._gains(results, predictions, alone, texts))
        result = replace(result, candidate=mask)
        return self._with_buckets(result, to_score, trials)

    def _leave_out_masks(self, texts: CalibrationTexts) -> None:
        """Search without masks where they cannot be scored, and there is something else to try."""
        from skipopt.scoring import not_scored_reason

        if not (self.config.searches_masks and self.config.searches_draft_configs):
            return
        reason = not_scored_reason(self.drafts.contexts, texts.texts[0])
        if reason is not None:
            self.on_note(f"masks are not tried: {reason}")
            self.config = self.drafts.config = self.config.without_masks

    @property
    def plan(self) -> TimePlan:
        return self.progress.plan

    def _make_plan(
        self, to_score: Sequence[Sequence[int]], to_validate: Sequence[Sequence[int]]
    ) -> None:
        """Time a few tokens, and divide the time by them.

        Raises:
            SearchError: the time limit is too short for any answer.
        """
        if not self.plan.is_limited:
            return
        pace = measure_pace(self.target, [*to_score, *to_validate])
        self.plan.set_needs(pace, self._estimator(pace, to_score, to_validate).needs())
        if self.config.timeout is None:
            self.on_note(str(self.plan))

    def _estimator(
        self,
        pace: Pace,
        to_score: Sequence[Sequence[int]],
        to_validate: Sequence[Sequence[int]] = (),
    ) -> Estimator:
        free = len(self.config.mask_space(self.target.depth, self.target.unskippable).free)
        scored, validated = (list(map(len, part)) for part in (to_score, to_validate))
        return Estimator(self.config, pace, scored, validated, free)

    def profile(self, result: SearchResult) -> Profile:
        spent = {str(name): seconds for name, seconds in self.plan.seconds_by_phase.items()}
        cost = SearchCost(self.progress.trials, self.progress.seconds, spent)
        return to_profile(self.target, self.config, self.prompts, cost, result)

    def interrupted_profile(self, stored: Sequence[Trial]) -> Profile | None:
        """The best so far without measurements; off unless it is predicted to pay.

        Args:
            stored: trials on the storage; another worker may have finished the first ones.
        """
        known = [] if self.progress.best is None else [self.progress.best]
        best = max([*known, *stored], key=lambda trial: trial.value, default=None)
        if best is None:
            return None
        return self.profile(SearchResult(best, off_reason=off_reason.interrupted(best)))

    def _calibrate(
        self,
        prompts: Sequence[Sequence[int]],
        deadline: Deadline,
        categories: Sequence[str | None] = (),
    ) -> CalibrationTexts:
        new_tokens = self.config.calibration_tokens
        on_step, pace = self.progress.report, self.plan.pace
        return calibrate(self.target, prompts, new_tokens, on_step, deadline, pace, categories)

    def _with_trees_and_context(
        self, context: Sequence[int], costs: Costs, draft_config: DraftConfig = UNCHANGED
    ) -> Costs:
        """`costs` with those of trees and long texts, if there is time to measure them."""
        self.progress.report()
        pace = self.plan.pace
        if pace is not None and not self.plan.end.fits(
            pace.text(TREE_COST_CONTEXTS * len(context), TREE_COST_STEPS)
        ):
            return costs
        return self.cost_source.with_trees_and_context(self.target, context, costs, draft_config)

    def _only_repetition(self, prompt: Sequence[int], known: Costs | None = None) -> SearchResult:
        """Off: no text says what drafts of the model gain.

        Args:
            known: costs, where they have been measured.
        """
        search = self.drafts.draft_configs(prompt, self.drafts.time())
        costs = known or search.measure_costs(
            UNCHANGED, self.config.cost_seconds, self.drafts.time()
        )
        costs = self._with_trees_and_context(prompt, costs)
        nothing = Trial(SkipMask.empty(self.target.depth), 0.0)
        return SearchResult(nothing, off_reason=off_reason.only_repetition(costs), costs=costs)

    def _no_predicted_gain(
        self, predictions: MethodPredictions, texts: CalibrationTexts
    ) -> SearchResult:
        """Nothing can be faster than plain decoding, so validation is skipped."""
        best = predictions.candidates[0]
        costs = self._with_trees_and_context(
            texts.median_text, best.costs, best.trial.draft_config
        )
        reason = off_reason.no_predicted_gain(best.trial, predictions.suffix, costs)
        return SearchResult(best.trial, off_reason=reason, costs=costs)

    def _validate(
        self,
        candidates: Sequence[Candidate],
        validation_texts: CalibrationTexts,
        predictions: MethodPredictions,
        deadline: Deadline,
    ) -> list[Validated]:
        from skipopt.study.validation import validate

        # Where not all finalists can decode a few prompts, those with the best predictions do.
        decoding = deadline.part(DECODING_SHARE)
        if self.plan.pace is not None and decoding.is_finite:
            workload = validation_texts.workload
            prompts = list(map(len, workload.prompts))
            each = self.plan.pace.text(sum(prompts), sum(workload.lengths)) / len(prompts)
            candidates = candidates[: max(1, int(decoding.left / (FEW_PROMPTS * each)) - 1)]
        return validate(
            self.target,
            [self.profile(SearchResult(each.trial)) for each in candidates],
            validation_texts.workload,
            self.config,
            decoding,
            self.progress.report,
            predictions,
        )

    def _result(
        self,
        candidates: Sequence[Candidate],
        results: Sequence[Validated],
        texts: CalibrationTexts,
        validation_texts: CalibrationTexts,
        costs: Costs,
    ) -> SearchResult:
        """The winner, and the reason if it does not pay.

        The prediction of `layer-skip` is made again, on all texts.

        Args:
            costs: without a draft configuration, for a method that drafts with none.
        """
        from skipopt.study.objective import Objective
        from skipopt.study.rescoring import predict_on
        from skipopt.study.validation import best_lossless

        winner = best_lossless(results)
        chosen = candidates[winner.index]
        trial, draft_config = chosen.trial, UNCHANGED
        if winner.method == LAYER_SKIP:
            objective = Objective(self.config, chosen.costs, trial.draft_config)
            every_text = (*validation_texts.texts, *texts.texts)
            contexts, time = self.drafts.contexts, self.drafts.time()
            trial = predict_on(contexts, trial, every_text, objective, time)
        if METHODS[winner.method].takes_draft_config:
            costs, draft_config = chosen.costs, trial.draft_config
        costs = self._with_trees_and_context(texts.median_text, costs, draft_config)
        return SearchResult(
            trial,
            winner,
            off_reason.no_measured_gain(winner, trial, costs),
            baselines(winner, results, [each.trial for each in candidates]),
            costs,
        )

    def _gains(
        self,
        results: Sequence[Validated],
        predictions: MethodPredictions,
        known: Sequence[Candidate],
        texts: CalibrationTexts,
    ) -> dict[Part, Gain]:
        """What each part of the winner's drafts gains alone."""
        from skipopt.study.ablation import Ablation, described
        from skipopt.study.validation import best_lossless

        search = self.drafts.draft_configs(texts.median_text, self.drafts.time(ABLATION_SHARE))
        ablation = Ablation(results, predictions, known, search, texts.texts)
        return ablation.gains(described(results, best_lossless(results)))

    def _with_buckets(
        self, result: SearchResult, prompts: Sequence[Sequence[int]], trials: Sequence[Trial]
    ) -> SearchResult:
        """The result with masks for longer texts."""
        from skipopt.study.context_buckets import ContextBucketSearch

        masks = [trial.mask for trial in trials[: self.config.num_candidates]]
        search = ContextBucketSearch(
            self.target,
            self.config,
            self.cost_source,
            prompts,
            masks,
            self.progress.report,
            partial(self._has_time_for_context, prompts),
            self.on_note,
        )
        return replace(result, buckets=tuple(search.buckets(result.trial)))

    def _has_time_for_context(self, prompts: Sequence[Sequence[int]], length: int) -> bool:
        pace = self.plan.pace
        return pace is None or self.plan.end.fits(self._estimator(pace, prompts).context(length))


def _check(target: Target, config: SearchConfig) -> None:
    """Raise the errors of context lengths, mask space and sampler before anything is measured."""
    check_context_lengths(config.context_lengths, target.context_limit - config.calibration_tokens)
    space = config.mask_space(target.depth, target.unskippable)
    if config.sampler not in NEED_CONTEXT:
        make_sampler(config.sampler, space, config.seed)
