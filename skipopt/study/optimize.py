"""The trial loop: propose masks, score them, store the trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import SearchError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.registry import make_sampler
from skipopt.samplers.upper_bound import speed_bound
from skipopt.sampling import MAX_SEED
from skipopt.scoring import TextContexts
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.workers import (
    STOP_TIMEOUT,
    Stopped,
    WorkerPool,
    bounded_workers,
    worker_pool,
)
from skipopt.study.objective import Objective
from skipopt.study.pruner import SuccessiveHalving
from skipopt.study.time_plan import NEVER, Deadline

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.samplers.base import BaseSampler
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial, TrialStorage
    from skipopt.storage.study_key import StudyLocation
    from skipopt.storage.workers import DistributedConfig
    from skipopt.study.config import SearchConfig
    from skipopt.study.progress import ProgressReporter

SAMPLER_SHARE = 0.25  # of the time left that a sampler may take to look at the model
STOP_SHARE = 0.1  # of the time for trials that workers have to finish their masks

Evaluate = Callable[[Sequence["SkipMask"]], list["Trial"]]


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """How masks are scored. Picklable, so that workers score them in the same way.

    Attributes:
        texts: all masks are scored on these.
        costs: of drafts made with `draft_config`.
        draft_config: what makes drafts cheaper, besides a mask.
        floor: the value that is reached without a mask; −∞ where nothing is.
        seconds_per_mask: estimated time to score one; 0 where time does not matter.
        seconds_per_row: of a forward; 0 where time does not matter.
    """

    texts: tuple[ScoredText, ...]
    costs: Costs
    draft_config: DraftConfig = UNCHANGED
    floor: float = -inf
    seconds_per_mask: float = 0.0
    seconds_per_row: float = 0.0


def optimize(
    contexts: TextContexts,
    config: SearchConfig,
    storage: TrialStorage,
    setup: TrialSetup,
    progress: ProgressReporter,
    workers: AbstractContextManager[WorkerPool],
    deadline: Deadline = NEVER,
) -> list[Trial]:
    """Score masks until the time for trials is over, or no better mask is found.

    Args:
        contexts: of the target.
        storage: trials that it holds already count, and new ones are added.
        workers: take part while this runs.
        deadline: no batch begins that would end after it, except a first one if nothing else has
            a value.

    Returns:
        The trials of all workers whose mask skips anything, best first.
    """
    loop = make_trial_loop(contexts, config, storage, setup, progress.add_trial, deadline)
    loop.load_trials()
    with workers as pool:

        def stopped() -> bool:
            pool.report_exits()
            return deadline.is_over

        loop.run(stopped)
    loop.sync()
    return sorted((t for t in loop.trials if t.mask.skipped), key=lambda trial: -trial.value)


def make_trial_loop(
    contexts: TextContexts,
    config: SearchConfig,
    storage: TrialStorage,
    setup: TrialSetup,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    deadline: Deadline = NEVER,
) -> TrialLoop:
    """The trial loop of one worker, with the config's sampler and objective."""
    space = config.mask_space(contexts.target.depth, contexts.target.unskippable)
    sampler = make_sampler(
        config.sampler,
        space,
        (config.seed + storage.rank) % (MAX_SEED + 1),  # each worker has its own seed
        SamplerContext(
            contexts.target,
            setup.texts,
            setup.costs,
            lambda rows: deadline.part(SAMPLER_SHARE).fits(rows * setup.seconds_per_row),
            contexts,
        ),
        speed_bound(setup.costs) if config.objective == "speed" else None,
        setup.floor,
    )
    objective = Objective(config, setup.costs, setup.draft_config)
    pruner = SuccessiveHalving(contexts, setup.texts, objective, _reference(config, space))
    return TrialLoop(
        config, sampler, pruner.evaluate, storage, len(space.free), on_trial, setup, deadline
    )


def _reference(config: SearchConfig, space: MaskSpace) -> SkipMask | None:
    """The mask that the first ones are compared with: that which skips nothing.

    Not where the skip count is fixed, and not by matchness, which is highest without a mask.
    """
    empty = SkipMask.empty(space.layers)
    return empty if empty in space and config.objective == "speed" else None


def no_mask_can_win(config: SearchConfig, depth: int, costs: Costs, floor: float) -> bool:
    """Whether even the cheapest mask, with every draft token accepted, stays below `floor`."""
    if config.objective != "speed":
        return False
    cheapest = SkipMask.empty(depth).flip(*config.mask_space(depth).free)
    return speed_bound(costs)(cheapest) < floor


class TrialLoop:
    """One worker's part of an optimization.

    Args:
        sampler: proposes masks; gets the value of each trial, of other workers too.
        evaluate: scores masks.
        storage: takes each trial as soon as it is finished.
        num_free: number of sublayers that may be skipped; the patience is proportional to it.
        on_trial: called with each trial.
        setup: trials with another draft configuration do not count.
        deadline: batches are made so small that they end before it.

    Attributes:
        trials: all trials so far, of other workers too.
    """

    def __init__(
        self,
        config: SearchConfig,
        sampler: BaseSampler,
        evaluate: Evaluate,
        storage: TrialStorage,
        num_free: int,
        on_trial: Callable[[Trial], None] = lambda trial: None,
        setup: TrialSetup | None = None,
        deadline: Deadline = NEVER,
    ) -> None:
        self.trials: list[Trial] = []
        self._config = config
        self._sampler = sampler
        self._evaluate = evaluate
        self._storage = storage
        self._num_free = num_free
        self._on_trial = on_trial
        self._draft_config = setup.draft_config if setup else UNCHANGED
        self._floor = setup.floor if setup else -inf
        self._seconds_per_mask = setup.seconds_per_mask if setup else 0.0
        self._deadline = deadline
        self._deferred: dict[SkipMask, float] = {}  # when other workers' masks were proposed here

    def load_trials(self) -> None:
        """Take all trials from the storage: of an earlier run, or of other workers."""
        self._take(self._storage.trials())

    def sync(self) -> None:
        """Take the trials that other workers have finished since the last call."""
        self._take(self._storage.new_trials())

    def run(self, stopped: Stopped) -> None:
        """Score masks; at least one batch of them where nothing else has a value.

        Ends when `stopped` returns True, no mask can be scored before the deadline, the number of
        trials is reached, no better mask was found for long, or no mask is left.
        """
        while self._needs_any() or not (stopped() or self._is_done() or self._is_settled()):
            self.sync()
            masks = self._next_batch()
            if not masks:
                return
            began = self._deadline.clock()
            for trial in map(self._with_sampler, self._evaluate(masks)):
                self._storage.append(trial)
                self._add(trial)
            if self._deadline.is_finite:
                self._seconds_per_mask = (self._deadline.clock() - began) / len(masks)

    def _with_sampler(self, trial: Trial) -> Trial:
        """The trial with the name of the sampler, of the portfolio the one that proposed it."""
        return replace(trial, sampler=self._sampler.proposer(trial.mask) or self._config.sampler)

    def _needs_any(self) -> bool:
        return not self.trials and self._floor == -inf

    def _take(self, trials: Sequence[Trial]) -> None:
        """Add those that were scored with the same draft configuration."""
        for trial in trials:
            if str(trial.draft_config) == str(self._draft_config):
                self._add(trial)

    def _next_batch(self) -> list[SkipMask]:
        """Masks to score now; none when no mask is left.

        Masks that another worker scores are deferred: their value should come from it. Those
        that it has not finished in time (it may have been killed) are scored here.
        """
        size = self._batch_size()
        if not size:
            return []
        if overdue := self._overdue(size):
            return overdue
        while asked := self._sampler.ask(size):
            if free := self._claim(asked):
                return free
        return list(self._deferred)[:size]

    def _claim(self, asked: Sequence[SkipMask]) -> list[SkipMask]:
        """Those that are left to this worker; what another one is scoring is deferred."""
        claimed = self._storage.claim(asked)
        self.sync()  # what another worker has finished since the last look is no longer claimed
        finished = {trial.mask for trial in self.trials}
        open_masks = [mask for mask in asked if mask not in finished]
        now = time.monotonic()
        self._deferred.update({mask: now for mask in open_masks if mask not in claimed})
        return [mask for mask in open_masks if mask in claimed]

    def _overdue(self, count: int) -> list[SkipMask]:
        """Up to `count` masks that were deferred too long ago."""
        since = time.monotonic() - self._config.claim_seconds
        return [mask for mask, deferred in self._deferred.items() if deferred < since][:count]

    def _add(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._deferred.pop(trial.mask, None)
        self._sampler.tell(trial.mask, trial.value)
        self._on_trial(trial)

    def _is_done(self) -> bool:
        return self._config.trials is not None and len(self.trials) >= self._config.trials

    def _is_settled(self) -> bool:
        """Whether no better mask was found within the patience; never with a fixed number."""
        if self._config.trials is not None or not self.trials:
            return False
        best = max(trial.value for trial in self.trials)
        no_gain = self._config.objective == "speed" and best <= max(1.0, self._floor)
        patience = self._config.patience_without_gain if no_gain else self._config.patience
        count = patience * self._num_free
        before, latest = self.trials[:-count], self.trials[-count:]
        if not before:
            return False
        enough = max(trial.value for trial in before) * (1 + self._config.min_improvement)
        return max(trial.value for trial in latest) < enough

    def _batch_size(self) -> int:
        """Masks to score next; 0 where none would be scored in time."""
        size = self._config.batch_size
        if self._config.trials is not None:
            size = max(1, min(size, self._config.trials - len(self.trials)))
        if self._deadline.is_finite and self._seconds_per_mask > 0:
            fitting = int(max(0.0, self._deadline.left) / self._seconds_per_mask)
            size = min(size, max(fitting, int(self._needs_any())))
        return size


def search_workers(
    distributed: DistributedConfig,
    location: StudyLocation | None,
    config: SearchConfig,
    setup: TrialSetup,
    on_note: Callable[[str], None],
    deadline: Deadline = NEVER,
) -> AbstractContextManager[WorkerPool]:
    """Worker processes that take part in a search; none unless `distributed` asks for them.

    Args:
        setup: with the costs of this process; workers on the same device would disturb each
            other's measurements.
        on_note: called with a line if there are fewer workers than asked for, and about each
            that died.
        deadline: workers are told to stop then, and are killed soon after.
    """
    if distributed.load is None or location is None:
        return worker_pool(0, lambda stopped: None, on_note)
    task = WorkerTask(distributed.load, location, config, setup)
    patience = STOP_TIMEOUT
    if deadline.is_finite:
        patience = min(STOP_TIMEOUT, STOP_SHARE * max(0.0, deadline.left))
    workers = bounded_workers(distributed.workers, on_note)
    return worker_pool(workers - 1, task, on_note, patience)


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """The trial loop of a worker process. Picklable."""

    load: Callable[[], Target]
    location: StudyLocation
    config: SearchConfig
    setup: TrialSetup

    def __call__(self, stopped: Stopped) -> None:
        """Run until stopped.

        Raises:
            SearchError: `load` gives another model than the search began with.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        target = self.load()
        if target.fingerprint != self.location.identity.model:
            raise SearchError("the model has changed since the search began")
        with closing(OptunaStorage(self.location)) as storage:
            loop = make_trial_loop(TextContexts(target), self.config, storage, self.setup)
            loop.load_trials()
            loop.run(stopped)
