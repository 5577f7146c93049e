"""The drafts that a search tries: draft configurations without a mask first, then masks.

On stock models the former pay most and take seconds. Masks are searched together with the best of
them, and only while they can still be better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from skipopt.draft_config import UNCHANGED
from skipopt.errors import SearchError
from skipopt.masks import SkipMask
from skipopt.scoring import TextContexts
from skipopt.storage.base import Trial, TrialStorage
from skipopt.study.draft_config_search import Candidate, DraftConfigSearch, still_winning
from skipopt.study.rescoring import TimeToScore

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.storage.study_key import StudyLocation
    from skipopt.storage.workers import DistributedConfig
    from skipopt.study.calibration import CalibrationTexts
    from skipopt.study.config import SearchConfig
    from skipopt.study.cost_source import CostSource
    from skipopt.study.optimize import TrialSetup
    from skipopt.study.progress import ProgressReporter
    from skipopt.study.time_plan import Deadline

# Shares of the time of a phase:
ALONE_SHARE = 0.7  # draft configurations without a mask; the rest is for the costs of masks
TRIALS_SHARE = 0.85  # trials; the rest is for scoring the best ones again
REFERENCE_SHARE = 0.25  # of the time for trials, to score one mask on all texts of trials
LEAST_TEXTS = 4  # of trials, however short the time


@dataclass(slots=True, eq=False)
class DraftSearch:
    """What is needed to find the drafts that validation decodes with.

    Attributes:
        location: of the storage; None if trials are kept in memory.
        contexts: keys and values of all texts of the search.
        on_note: called with a line about each part of the search space that is left out.
    """

    target: Target
    config: SearchConfig
    storage: TrialStorage
    location: StudyLocation | None
    distributed: DistributedConfig
    cost_source: CostSource
    progress: ProgressReporter
    on_note: Callable[[str], None]
    contexts: TextContexts = field(init=False)

    def __post_init__(self) -> None:
        self.contexts = TextContexts(self.target)

    def time(self, share: float = 1.0) -> TimeToScore:
        """What is left of a share of the present phase's time."""
        deadline = self.progress.plan.deadline.part(share)
        pace = self.progress.plan.pace
        return TimeToScore(deadline, pace, self.progress.report, self.contexts)

    def draft_configs(self, context: Sequence[int], time: TimeToScore) -> DraftConfigSearch:
        return DraftConfigSearch(
            self.contexts, self.config, self.cost_source, context, time, self.on_note
        )

    def try_draft_configs(
        self, texts: CalibrationTexts
    ) -> tuple[list[Candidate], Candidate | None]:
        """Draft configurations without a mask, best first, and what masks are searched with.

        That is the best of them, if it is predicted to be faster than plain decoding; else the
        model's own weights, whose value is unknown. None where no masks are searched.
        """
        search = self.draft_configs(texts.median_text, self.time(ALONE_SHARE))
        alone = search.try_alone(texts.texts)
        for each in alone:
            self.progress.consider(each.trial)
        if not self.config.searches_masks:
            return alone, None
        best = next((a for a in alone if a.trial.draft_config.vocab_size is None), None)
        if best is not None and best.trial.value > 1:
            return alone, best
        costs = search.measure_costs(UNCHANGED, self.config.cost_seconds, self.time())
        return alone, Candidate(Trial(SkipMask.empty(self.target.depth), -inf), costs)

    def optimize(
        self, texts: CalibrationTexts, alone: Sequence[Candidate], base: Candidate | None
    ) -> list[Trial]:
        """Trials that skip anything, best first; none where no mask can win, or in no time."""
        if base is None:
            return []
        from skipopt.study.optimize import no_mask_can_win, optimize, search_workers

        floor = max((each.trial.value for each in alone), default=-inf)
        if self.config.skip_ratio is not None:
            floor = -inf
        if no_mask_can_win(self.config, self.target.depth, base.costs, floor):
            self.on_note(
                f"masks are not tried: {alone[0].trial.draft_config} alone is predicted to be "
                "faster than any mask could be"
            )
            return []
        deadline = self.progress.plan.deadline.part(TRIALS_SHARE)
        setup = self._trial_setup(texts, base, floor, deadline)
        if floor > -inf and not deadline.fits(self._first_batch_seconds(setup)):
            self.on_note("masks are not tried: no time is left for them")
            return []
        workers = search_workers(
            self.distributed, self.location, self.config, setup, self.on_note, deadline
        )
        return optimize(
            self.contexts, self.config, self.storage, setup, self.progress, workers, deadline
        )

    def _trial_setup(
        self, texts: CalibrationTexts, base: Candidate, floor: float, deadline: Deadline
    ) -> TrialSetup:
        """On how many texts masks are scored: so few that some batches fit."""
        from skipopt.study.optimize import TrialSetup
        from skipopt.study.pruner import rows_per_mask

        config, pace = self.config, self.progress.plan.pace
        quick = texts.texts[: config.quick_texts]
        draft_config = base.trial.draft_config
        if pace is None:
            return TrialSetup(quick, base.costs, draft_config, floor)
        time = TimeToScore(deadline.part(REFERENCE_SHARE), pace, contexts=self.contexts)
        quick = quick[: max(time.fitting_texts(quick, 1), min(len(quick), LEAST_TEXTS))]
        row = pace.scored_row
        seconds = row * rows_per_mask(config, [len(text.continuation) for text in quick])
        return TrialSetup(quick, base.costs, draft_config, floor, seconds, row)

    def _first_batch_seconds(self, setup: TrialSetup) -> float:
        """Seconds until masks have been scored, the one that they are compared with included."""
        pace = self.progress.plan.pace
        if pace is None:
            return 0.0
        reference = self.time().seconds(pace, setup.texts)
        return reference + self.config.batch_size * setup.seconds_per_mask

    def finalists(
        self,
        trials: Sequence[Trial],
        texts: CalibrationTexts,
        alone: Sequence[Candidate],
        base: Candidate | None,
    ) -> list[Candidate]:
        """What can still win: the best masks, and draft configurations without one; best first."""
        from skipopt.study.objective import Objective
        from skipopt.study.rescoring import rescore

        found = [] if self.config.skip_ratio is not None else list(alone)
        if trials and base is not None:
            kept = self._worth_rescoring(trials, found)
            objective = Objective(self.config, base.costs, base.trial.draft_config)
            masks = [trial.mask for trial in kept]
            rescored = rescore(self.contexts, masks, texts.texts, objective, self.time())
            best = rescored or kept[: self.config.num_finalists]
            found += [Candidate(trial, base.costs) for trial in best]
        if not found and not self.config.searches_masks:
            raise SearchError(
                "no draft configuration of the search space is available here",
                hint="name others in --search-space; copies need no search: --method suffix",
            )
        if not found:
            raise SearchError(
                "no mask that skips anything was scored, and no other draft configuration is "
                "available here",
                hint="raise --timeout or --trials",
            )
        return still_winning(found, self.config)

    def _worth_rescoring(self, trials: Sequence[Trial], alone: Sequence[Candidate]) -> list[Trial]:
        """The trials that can still win, best first.

        Where there is nothing else, the best one at least. Trials are optimistic: the best of many
        on few texts, and with drafts of one token.
        """
        if self.config.objective != "speed":
            return list(trials)
        best = max(each.trial.value for each in alone) if alone else trials[0].value
        least = (1 - self.config.finalist_margin) * best
        kept = [trial for trial in trials if not trial.pruned and trial.value >= least]
        return kept if kept or alone else list(trials)
