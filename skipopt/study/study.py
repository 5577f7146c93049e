"""A whole search: calibrate, measure costs, optimize, rescore, validate, write a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from skipopt.bench.workload import OnlyRepetition
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import PromptError, SearchError
from skipopt.masks import SkipMask
from skipopt.samplers.registry import NEED_CONTEXT, make_sampler
from skipopt.storage.base import InMemoryStorage, Trial, TrialStorage
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyLocation, join_message, locate_study
from skipopt.storage.workers import DistributedConfig
from skipopt.study import off_reason
from skipopt.study.calibration import CalibrationTexts, calibrate, split_prompts
from skipopt.study.config import (
    LAYER_SKIP,
    SearchConfig,
    SearchOptions,
    check_context_lengths,
    override,
)
from skipopt.study.cost_source import CostSource, MeasuredCosts
from skipopt.study.progress import OnProgress, ProgressReporter
from skipopt.study.to_profile import (
    SearchCost,
    SearchResult,
    UsedPrompts,
    baselines,
    to_profile,
)

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.prompts import Prompt, PromptSet
    from skipopt.study.draft_config_search import Candidate
    from skipopt.study.validation import Validated

OnNote = Callable[[str], None]


class Interrupted(Exception):
    """The search was stopped by Ctrl-C.

    Attributes:
        profile: the best so far, without measurements; None before the first trial.
    """

    def __init__(self, profile: Profile | None) -> None:
        super().__init__("the search was interrupted")
        self.profile = profile


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
        on_note: called with a line about other workers, or about a part of the search space that
            is left out.
        cost_source: gives the costs of drafting; by default they are measured.

    Returns:
        The profile; with `enabled` false and a reason where speculation does not pay.

    Raises:
        Interrupted: on KeyboardInterrupt, with the best profile so far.
        SkipoptError: bad input, before anything is measured where possible.
    """
    config = override(config, options)
    distributed = distributed or DistributedConfig()
    prompt_set = _prompt_set(target, prompts)
    _check(target, config)
    parts = split_prompts(prompt_set, config)
    to_score, to_validate = (_tokenize(target, part) for part in parts)
    used = _used_prompts(target, prompt_set, [*parts[0], *parts[1]])
    identity = config.identity(target, used.identity)
    location = locate_study(target, distributed, journal, identity, resume)
    with closing(InMemoryStorage() if location is None else OptunaStorage(location)) as storage:
        if location is not None and distributed.storage is not None:
            on_note(join_message(distributed.study, location, len(storage.trials())))
        progress = ProgressReporter(config.time_limit, on_progress)
        study = _Study(
            target=target,
            config=config,
            prompts=used,
            storage=storage,
            location=location,
            distributed=distributed,
            cost_source=cost_source or MeasuredCosts(),
            progress=progress,
            on_note=on_note,
        )
        try:
            return study.profile(study.run(to_score, to_validate))
        except KeyboardInterrupt:
            raise Interrupted(study.interrupted_profile()) from None


@dataclass(slots=True, eq=False)
class _Study:
    """One search: what it works with, and its phases in their order.

    Attributes:
        location: of the storage; None if trials are kept in memory.
    """

    target: Target
    config: SearchConfig
    prompts: UsedPrompts
    storage: TrialStorage
    location: StudyLocation | None
    distributed: DistributedConfig
    cost_source: CostSource
    progress: ProgressReporter
    on_note: OnNote

    def run(
        self, to_score: Sequence[Sequence[int]], to_validate: Sequence[Sequence[int]]
    ) -> SearchResult:
        """All phases.

        Args:
            to_score: prompts on whose texts masks are scored; token ids.
            to_validate: prompts that the finalists decode.
        """
        self.progress.enter("calibrate")
        try:
            texts = self._calibrate(to_score)
        except OnlyRepetition:
            return self._only_repetition(to_score[0])
        self.progress.enter("costs")
        costs = self._measure_costs(texts.median_text)
        self.progress.enter("search")
        trials = self._optimize(texts, costs)
        if trials and self._cannot_pay(trials[0], texts):
            costs = self._with_trees_and_context(texts.median_text, costs)
            reason = off_reason.no_predicted_gain(trials[0], texts, costs)
            return SearchResult(trials[0], off_reason=reason, costs=costs)
        self.progress.enter("validate")
        candidates = self._finalists(trials, texts, costs)
        validation_texts = self._calibrate(to_validate)
        results = self._validate(candidates, validation_texts)
        result = self._result(candidates, results, texts, validation_texts, costs)
        return self._with_buckets(result, to_score, trials)

    def profile(self, result: SearchResult) -> Profile:
        cost = SearchCost(self.progress.trials, self.progress.seconds)
        return to_profile(self.target, self.config, self.prompts, cost, result)

    def interrupted_profile(self) -> Profile | None:
        """The best so far without measurements; off unless it is predicted to pay."""
        best = self.progress.best
        if best is None:
            return None
        return self.profile(SearchResult(best, off_reason=off_reason.interrupted(best)))

    def _calibrate(self, prompts: Sequence[Sequence[int]]) -> CalibrationTexts:
        new_tokens = self.config.calibration_tokens
        return calibrate(self.target, prompts, new_tokens, self.progress.report)

    def _measure_costs(self, context: Sequence[int]) -> Costs:
        longest, seconds = self.config.longest_verification, self.config.cost_seconds
        return self.cost_source.costs(self.target, context, longest, seconds)

    def _with_trees_and_context(
        self, context: Sequence[int], costs: Costs, draft_config: DraftConfig = UNCHANGED
    ) -> Costs:
        self.progress.report()
        return self.cost_source.with_trees_and_context(self.target, context, costs, draft_config)

    def _only_repetition(self, prompt: Sequence[int]) -> SearchResult:
        costs = self._with_trees_and_context(prompt, self._measure_costs(prompt))
        nothing = Trial(SkipMask.empty(self.target.depth), 0.0)
        return SearchResult(nothing, off_reason=off_reason.only_repetition(costs), costs=costs)

    def _optimize(self, texts: CalibrationTexts, costs: Costs) -> list[Trial]:
        """Trials that skip anything, best first."""
        if not self.config.searches_masks:
            return []
        from skipopt.study.optimize import optimize, search_workers

        quick = texts.texts[: self.config.quick_texts]
        workers = search_workers(
            self.distributed, self.location, self.config, quick, costs, self.on_note
        )
        return optimize(
            self.target, self.config, self.storage, quick, costs, self.progress, workers
        )

    def _cannot_pay(self, best: Trial, texts: CalibrationTexts) -> bool:
        """Whether nothing can be faster than plain decoding, so that validation is skipped.

        Predictions from one-token drafts are optimistic, so the best one is an upper bound.
        """
        if self.config.searches_draft_configs or self.config.objective != "speed":
            return False
        predicted = best.prediction.speedup if best.prediction else 0.0
        return predicted <= 1 and texts.tokens_per_lookup_round < self.config.min_lookup_tokens

    def _finalists(
        self, trials: Sequence[Trial], texts: CalibrationTexts, costs: Costs
    ) -> list[Candidate]:
        """What to decode with: the best masks, and variants with other draft configurations."""
        from skipopt.study.draft_config_search import Candidate, DraftConfigSearch
        from skipopt.study.objective import Objective
        from skipopt.study.rescoring import rescore

        masks = [trial.mask for trial in trials]
        objective = Objective(self.config, costs)
        rescored = rescore(self.target, masks, texts.texts, objective, self.progress.report)
        variants = DraftConfigSearch(
            self.target,
            self.config,
            self.cost_source,
            texts.median_text,
            lambda: self.progress.is_past(self.config.draft_config_share),
            self.progress.report,
            self.on_note,
        )
        finalists = [Candidate(trial, costs) for trial in rescored]
        found = variants.try_draft_configs(finalists, texts.texts)
        if not found:
            raise SearchError(
                "no mask that skips anything was scored, and no other draft configuration is "
                "available here",
                hint="raise --timeout or --trials",
            )
        return found

    def _validate(
        self, candidates: Sequence[Candidate], texts: CalibrationTexts
    ) -> list[Validated]:
        from skipopt.study.validation import validate

        return validate(
            self.target,
            [self.profile(SearchResult(each.trial)) for each in candidates],
            texts.workload,
            self.config,
            self.progress.is_past,
            self.progress.report,
        )

    def _result(
        self,
        candidates: Sequence[Candidate],
        results: Sequence[Validated],
        texts: CalibrationTexts,
        validation_texts: CalibrationTexts,
        costs: Costs,
    ) -> SearchResult:
        """The winner with its prediction on all texts, and the reason if it does not pay.

        Args:
            costs: without a draft configuration; only `layer-skip` drafts with another one.
        """
        from skipopt.study.objective import Objective
        from skipopt.study.rescoring import predict_on
        from skipopt.study.validation import best_lossless

        winner = best_lossless(results)
        chosen = candidates[winner.index]
        objective = Objective(self.config, chosen.costs, chosen.trial.draft_config)
        every_text = (*texts.texts, *validation_texts.texts)
        trial = predict_on(self.target, chosen.trial, every_text, objective)
        draft_config = UNCHANGED
        if winner.method == LAYER_SKIP:
            costs, draft_config = chosen.costs, trial.draft_config
        costs = self._with_trees_and_context(texts.median_text, costs, draft_config)
        return SearchResult(
            trial,
            winner,
            off_reason.no_measured_gain(winner, trial, costs),
            baselines(winner, results, [each.trial for each in candidates]),
            costs,
        )

    def _with_buckets(
        self, result: SearchResult, prompts: Sequence[Sequence[int]], trials: Sequence[Trial]
    ) -> SearchResult:
        """The result with masks for longer texts."""
        from skipopt.study.context_buckets import ContextBucketSearch

        masks = [trial.mask for trial in trials[: self.config.num_candidates]]
        search = ContextBucketSearch(
            self.target, self.config, self.cost_source, prompts, masks, self.progress.report
        )
        return replace(result, buckets=tuple(search.buckets(result.trial)))


def _check(target: Target, config: SearchConfig) -> None:
    """Raise the errors of context lengths, mask space and sampler before anything is measured."""
    longest = target.context_limit - config.calibration_tokens
    check_context_lengths(config.context_lengths, longest)
    space = config.mask_space(target.depth)
    if config.sampler not in NEED_CONTEXT:
        make_sampler(config.sampler, space, config.seed)


def _prompt_set(target: Target, prompts: PromptSet | Sequence[str] | None) -> PromptSet:
    from skipopt.prompts import PromptSet, load_prompts, split_prompts

    if prompts is None:
        return load_prompts(model_id=target.model_id)
    return prompts if isinstance(prompts, PromptSet) else split_prompts(prompts, "given")


def _tokenize(target: Target, prompts: Sequence[Prompt]) -> list[list[int]]:
    from skipopt.detokenizer import encode_prompts

    if target.tokenizer is None:
        raise PromptError(
            "this target has no tokenizer, so prompts cannot be read",
            hint="load it with skipopt.load((model, tokenizer))",
        )
    return encode_prompts(target.tokenizer, prompts)


def _used_prompts(target: Target, prompts: PromptSet, used: Sequence[Prompt]) -> UsedPrompts:
    from skipopt.detokenizer import template_hash
    from skipopt.prompts import by_category

    is_chat = any(prompt.messages is not None for prompt in used)
    template = template_hash(target.tokenizer) if is_chat else None
    return UsedPrompts(prompts.digest, template, tuple(by_category(used).items()))
