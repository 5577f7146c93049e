"""One search, from prompts to a profile: calibrate, price, propose and score, confirm.

Knows nothing of how a mask is proposed, scored or run; it goes from phase to phase and keeps the
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from skipopt.bench.workload import OnlyRepetition, Workload
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import PromptError, SearchError
from skipopt.masks import SkipMask
from skipopt.profile import Profile
from skipopt.samplers.registry import NEED_CONTEXT, make_sampler
from skipopt.storage.base import InMemoryStorage, Trial, TrialStorage
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyLocation, join_message, locate_study
from skipopt.storage.workers import DistributedConfig, WorkerPool, worker_pool
from skipopt.study.calibration import (
    CalibrationTexts,
    check_count,
    continue_prompts,
    split_to_confirm,
)
from skipopt.study.config import (
    SearchConfig,
    SearchOptions,
    check_context_lengths,
    override,
)
from skipopt.study.context_buckets import ContextLengths
from skipopt.study.optimize import TrialLoop, WorkerTask
from skipopt.study.reasons import no_promise, no_texts, reason_against
from skipopt.study.to_profile import SearchCost, baseline_results, profile_of

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.prompts import Prompt, PromptSet
    from skipopt.scoring import ScoredText
    from skipopt.study.validation import Validated


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is. `phase` is calibrate, price, search or confirm."""

    phase: str
    trials: int
    best_value: float | None
    best_mask: SkipMask | None
    seconds: float
    seconds_left: float | None


class Interrupted(Exception):
    """The search was stopped by Ctrl-C; `profile` is the best so far, unconfirmed, if any."""

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
    on_progress: Callable[[Progress], None] | None = None,
    sharing: DistributedConfig | None = None,
    on_note: Callable[[str], None] = lambda line: None,
    **options: Unpack[SearchOptions],
) -> Profile:
    """Find which sublayers to skip while drafting, and how many tokens to draft.

    Args:
        prompts: the calibration part is used, the held-out part never; None: the built-in set.
        config: all options with their defaults.
        options: fields of `config` to replace, such as `trials=400` or `search_space=("skip",
            "int8")`.
        journal: file to which each trial is appended at once; with `resume`, its trials count.
        on_progress: called often.
        sharing: further workers, here and elsewhere, and the storage they share; by default
            `journal`. A study that is already on the storage is joined.
        on_note: called with a line about other workers, or about a part of the search space that
            is left out.

    Returns:
        The profile; with `enabled` false and a reason where speculation does not pay.

    Raises:
        Interrupted: on KeyboardInterrupt, with the best profile so far.
        SkipoptError: bad input, before anything is measured where possible.
    """
    config = override(config, options)
    prompt_set = _prompt_set(prompts)
    check_context_lengths(config.context_lengths, target.context_limit - config.calibration_tokens)
    if config.sampler not in NEED_CONTEXT:
        make_sampler(config.sampler, config.mask_space(target.depth), config.seed)
    prompt_ids = _token_prompts(target, prompt_set.calibration)
    check_count(prompt_ids)
    sharing = sharing or DistributedConfig()
    location = locate_study(
        target, sharing, journal, config.identity(target, prompt_set.digest), resume
    )
    with closing(InMemoryStorage() if location is None else OptunaStorage(location)) as book:
        if location is not None and sharing.storage is not None:
            on_note(join_message(sharing.study, location, len(book.trials())))
        study = _Study(target, config, prompt_set.digest, book, on_progress, on_note)
        try:
            return study.run(prompt_ids, _Hire(sharing, location, config, on_note))
        except KeyboardInterrupt:
            raise Interrupted(study.unconfirmed()) from None


@dataclass(frozen=True, slots=True)
class _Hire:
    """Who helps: called when texts and prices are known."""

    sharing: DistributedConfig
    location: StudyLocation | None
    config: SearchConfig
    tell: Callable[[str], None]

    def __call__(
        self, texts: tuple[ScoredText, ...], costs: Costs
    ) -> AbstractContextManager[WorkerPool]:
        load, location = self.sharing.load, self.location
        if load is None or location is None:
            return worker_pool(0, lambda stopped: None, self.tell)
        work = WorkerTask(load, location, self.config, texts, costs)
        return worker_pool(self.sharing.workers - 1, work, self.tell)


class _Study:
    """A search under way: its clock and its phases."""

    def __init__(
        self,
        target: Target,
        config: SearchConfig,
        prompts: str,
        book: TrialStorage,
        on_progress: Callable[[Progress], None] | None,
        on_note: Callable[[str], None],
    ) -> None:
        self.target = target
        self._on_note = on_note
        self.config = config
        self._prompts = prompts
        self.book = book
        self._seeker: TrialLoop | None = None
        self._on_progress = on_progress
        self._phase = "calibrate"
        self._began = time.monotonic()

    def run(self, prompts: Sequence[Sequence[int]], hire: _Hire) -> Profile:
        from skipopt.bench.cost_measurement import measure_costs
        from skipopt.study.draft_config_search import DraftConfigSearch
        from skipopt.study.objective import Objective
        from skipopt.study.rescoring import NUM_CANDIDATES, predict_on, rescore

        to_score, to_confirm = split_to_confirm(prompts[: self.config.calibration_prompts])
        longest = self.config.longest_verification
        try:
            scored = self._continue(to_score)
        except OnlyRepetition:
            costs = self._beyond(
                measure_costs(self.target, to_score[0], longest, self.config.cost_seconds),
                to_score[0],
            )
            nothing = Trial(SkipMask.empty(self.target.depth), 0.0)
            return self._profile(nothing, None, no_texts(costs), None, costs)
        self._enter("price")
        costs = measure_costs(
            self.target, _middle(scored.texts), longest, self.config.cost_seconds
        )
        self._enter("search")
        trials = self._search(scored.texts[: self.config.quick_texts], costs, hire)
        cheaper = bool(self.config.draft_configs)
        if trials and not cheaper and self._hopeless(trials[0], scored):
            costs = self._beyond(costs, _middle(scored.texts))
            return self._profile(
                trials[0], None, no_promise(trials[0], scored, costs), None, costs
            )
        self._enter("confirm")
        judge, masks = Objective(self.config, costs), [trial.mask for trial in trials]
        finalists = rescore(self.target, masks, scored.texts, judge, self._tell)
        pulling = DraftConfigSearch(
            self.target, self.config, judge, longest, self._too_late, self._tell, self._on_note
        )
        finalists = pulling.extend(finalists, scored.texts, _middle(scored.texts))
        to_decode = self._continue(to_confirm)
        confirmed = self._confirm(finalists, to_decode.workload)
        winner = self._winner(confirmed)
        texts = (*scored.texts, *to_decode.texts)
        judge = pulling.judges[finalists[winner.index].draft_config]
        trial = predict_on(self.target, finalists[winner.index], texts, judge)
        draft_config = UNCHANGED
        if winner.method == "layer-skip":  # no other drafts with levers
            costs, draft_config = judge.costs, judge.draft_config
        costs = self._beyond(costs, _middle(scored.texts), draft_config)
        reason = reason_against(winner, trial, costs)
        others = baseline_results(winner, confirmed, finalists)
        lengths = ContextLengths(
            self.target, self.config, to_score, masks[:NUM_CANDIDATES], longest
        )
        buckets = lengths.buckets(self.config.context_lengths, trial, self._tell)
        return self._profile(trial, winner, reason, others, costs, buckets)

    def _beyond(
        self, costs: Costs, context: Sequence[int], draft_config: DraftConfig = UNCHANGED
    ) -> Costs:
        """With what the profile tells of trees and of longer texts; nothing is chosen by it."""
        from skipopt.bench.tree_cost_measurement import measure_tree_and_context_costs

        self._tell()
        return measure_tree_and_context_costs(
            self.target, context, costs, draft_config=draft_config
        )

    def _continue(self, prompts: Sequence[Sequence[int]]) -> CalibrationTexts:
        return continue_prompts(self.target, prompts, self.config.calibration_tokens, self._tell)

    def _search(self, texts: tuple[ScoredText, ...], costs: Costs, hire: _Hire) -> list[Trial]:
        """All that skip anything, best first."""
        if not self.config.searches_masks:
            return []
        seeker = TrialLoop(self.target, self.config, self.book, texts, costs, self._tell)
        self._seeker = seeker
        seeker.take_up()
        timeout = self.config.time_limit
        until = None if timeout is None else timeout * self.config.trials_share
        with hire(texts, costs) as crew:

            def stopped() -> bool:
                crew.report_exits()
                return until is not None and self._elapsed() > until

            seeker.seek(stopped)
        seeker.hear()
        return seeker.ranked()

    @property
    def trials(self) -> int:
        return len(self._seeker.trials) if self._seeker else 0

    def best(self) -> Trial | None:
        return self._seeker.best if self._seeker else None

    def unconfirmed(self) -> Profile | None:
        """The best so far as a profile without measurements; off where it promises nothing."""
        best = self.best()
        if best is None:
            return None
        promised = best.prediction.speedup if best.prediction else 0.0
        reason = None
        if not best.mask.skipped or promised <= 1:
            reason = f"interrupted before a mask was found that pays (predicted {promised:.2f})"
        return self._profile(best, None, reason)

    def _hopeless(self, best: Trial, scored: CalibrationTexts) -> bool:
        """Does neither a mask nor copying promise anything? Then nothing need be decoded.

        Drafts of one token are scored brighter than whole ones fare, so the promise is an upper
        bound.
        """
        promised = best.prediction.speedup if best.prediction else 0.0
        return (
            self.config.objective == "speed"
            and promised <= 1
            and scored.copied < self.config.min_lookup_tokens
        )

    def _confirm(self, finalists: list[Trial], workload: Workload) -> list[Validated]:
        from skipopt.study.validation import validate

        if not finalists:
            return []
        timeout = self.config.time_limit
        return validate(
            self.target,
            [self._profile(trial) for trial in finalists],
            workload,
            lambda: timeout is not None and self._elapsed() > timeout,
            self._tell,
        )

    def _winner(self, confirmed: Sequence[Validated]) -> Validated:
        """The best whose text was plain decoding's."""
        if not confirmed:
            raise SearchError(
                "no mask that skips anything was scored, and no lever is to be had here",
                hint="raise --timeout or --trials",
            )
        return next((c for c in confirmed if c.lossless != "failed"), confirmed[0])

    def _too_late(self) -> bool:
        """To try anything more, for what is left confirms."""
        timeout = self.config.time_limit
        return timeout is not None and self._elapsed() > timeout * self.config.draft_config_share

    def _profile(self, trial: Trial, *rest: Any) -> Profile:
        spent = SearchCost(self.trials, self._elapsed())
        return profile_of(self.target, self.config, self._prompts, spent, trial, *rest)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        best, seconds = self.best(), self._elapsed()
        timeout = self.config.time_limit
        left = None if timeout is None else max(0.0, timeout - seconds)
        self._on_progress(
            Progress(
                self._phase,
                self.trials,
                best.value if best else None,
                best.mask if best else None,
                seconds,
                left,
            )
        )


def _middle(texts: Sequence[ScoredText]) -> tuple[int, ...]:
    """The text of middle length: prices are those of the context that it gives."""
    return sorted((text.tokens for text in texts), key=len)[len(texts) // 2]


def _prompt_set(prompts: PromptSet | Sequence[str] | None) -> PromptSet:
    from skipopt.prompts import PromptSet, load_prompts, split_prompts

    if prompts is None:
        return load_prompts()
    return prompts if isinstance(prompts, PromptSet) else split_prompts(prompts, "given")


def _token_prompts(target: Target, prompts: Sequence[Prompt]) -> list[list[int]]:
    from skipopt.detokenizer import encode_prompt

    if target.tokenizer is None:
        raise PromptError(
            "this target has no tokenizer, so prompts cannot be read",
            hint="load it with skipopt.load((model, tokenizer))",
        )
    return [
        encode_prompt(target.tokenizer, text=p.text, messages=p.chat() or None) for p in prompts
    ]
