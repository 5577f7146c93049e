"""The trial loop: propose masks, score them, store the trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.errors import SearchError
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.registry import make_sampler
from skipopt.samplers.upper_bound import speed_bound
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.workers import Stopped, WorkerPool, worker_pool
from skipopt.study.objective import Objective
from skipopt.study.pruner import PairedPruner

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.samplers.base import BaseSampler
    from skipopt.scoring import ScoredText
    from skipopt.storage.base import Trial, TrialStorage
    from skipopt.storage.study_key import StudyLocation
    from skipopt.storage.workers import DistributedConfig
    from skipopt.study.config import SearchConfig
    from skipopt.study.progress import ProgressReporter

Evaluate = Callable[[Sequence["SkipMask"]], list["Trial"]]


def optimize(
    target: Target,
    config: SearchConfig,
    storage: TrialStorage,
    texts: tuple[ScoredText, ...],
    costs: Costs,
    progress: ProgressReporter,
    workers: AbstractContextManager[WorkerPool],
) -> list[Trial]:
    """Score masks until the time for trials is over, or no better mask is found.

    Args:
        storage: trials that it holds already count, and new ones are added.
        texts: all masks are scored on these.
        workers: take part while this runs.

    Returns:
        The trials of all workers whose mask skips anything, best first.
    """
    loop = make_trial_loop(target, config, storage, texts, costs, progress.add_trial)
    loop.load_trials()
    with workers as pool:

        def stopped() -> bool:
            pool.report_exits()
            return progress.is_past(config.trials_share)

        loop.run(stopped)
    loop.sync()
    return sorted((t for t in loop.trials if t.mask.skipped), key=lambda trial: -trial.value)


def make_trial_loop(
    target: Target,
    config: SearchConfig,
    storage: TrialStorage,
    texts: tuple[ScoredText, ...],
    costs: Costs,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> TrialLoop:
    """The trial loop of one worker, with the config's sampler and objective."""
    space = config.mask_space(target.depth)
    sampler = make_sampler(
        config.sampler,
        space,
        config.seed + storage.rank,  # each worker has its own seed
        SamplerContext(target, texts, costs),
        speed_bound(costs) if config.objective == "speed" else None,
    )
    pruner = PairedPruner(target, texts, Objective(config, costs))
    return TrialLoop(config, sampler, pruner.evaluate, storage, len(space.free), on_trial)


class TrialLoop:
    """One worker's part of an optimization.

    Args:
        sampler: proposes masks; gets the value of each trial, of other workers too.
        evaluate: scores masks.
        storage: takes each trial as soon as it is finished.
        num_free: number of sublayers that may be skipped; the patience is proportional to it.
        on_trial: called with each trial.

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
    ) -> None:
        self.trials: list[Trial] = []
        self._config = config
        self._sampler = sampler
        self._evaluate = evaluate
        self._storage = storage
        self._num_free = num_free
        self._on_trial = on_trial
        self._deferred: dict[SkipMask, float] = {}  # when other workers' masks were proposed here

    def load_trials(self) -> None:
        """Take all trials from the storage: of an earlier run, or of other workers."""
        for trial in self._storage.trials():
            self._add(trial)

    def sync(self) -> None:
        """Take the trials that other workers have finished since the last call."""
        for trial in self._storage.new_trials():
            self._add(trial)

    def run(self, stopped: Stopped) -> None:
        """Score masks, at least one batch of them.

        Ends when `stopped` returns True, the number of trials is reached, no better mask was
        found for long, or no mask is left.
        """
        while not self.trials or not (stopped() or self._is_done() or self._is_settled()):
            self.sync()
            masks = self._next_batch()
            if not masks:
                return
            for trial in self._evaluate(masks):
                self._storage.append(trial)
                self._add(trial)

    def _next_batch(self) -> list[SkipMask]:
        """Masks to score now; none when no mask is left.

        Masks that another worker scores are deferred: their value should come from it. Those
        that it has not finished in time (it may have been killed) are scored here.
        """
        size = self._batch_size()
        if overdue := self._overdue(size):
            return overdue
        while asked := self._sampler.ask(size):
            free = self._storage.claim(asked)
            now = time.monotonic()
            self._deferred.update({mask: now for mask in asked if mask not in free})
            if free:
                return free
        return list(self._deferred)[:size]

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
        if self._config.trials is not None:
            return False
        best = max(trial.value for trial in self.trials)
        no_gain = self._config.objective == "speed" and best <= 1
        patience = self._config.patience_without_gain if no_gain else self._config.patience
        count = patience * self._num_free
        before, latest = self.trials[:-count], self.trials[-count:]
        if not before:
            return False
        enough = max(trial.value for trial in before) * (1 + self._config.min_improvement)
        return max(trial.value for trial in latest) < enough

    def _batch_size(self) -> int:
        if self._config.trials is None:
            return self._config.batch_size
        return max(1, min(self._config.batch_size, self._config.trials - len(self.trials)))


def search_workers(
    distributed: DistributedConfig,
    location: StudyLocation | None,
    config: SearchConfig,
    texts: tuple[ScoredText, ...],
    costs: Costs,
    on_note: Callable[[str], None],
) -> AbstractContextManager[WorkerPool]:
    """Worker processes that take part in a search; none unless `distributed` asks for them.

    Args:
        texts, costs: those of this process; workers on the same device would disturb each
            other's measurements.
        on_note: called with a line about each worker that died.
    """
    if distributed.load is None or location is None:
        return worker_pool(0, lambda stopped: None, on_note)
    task = WorkerTask(distributed.load, location, config, texts, costs)
    return worker_pool(distributed.workers - 1, task, on_note)


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """The trial loop of a worker process. Picklable."""

    load: Callable[[], Target]
    location: StudyLocation
    config: SearchConfig
    texts: tuple[ScoredText, ...]
    costs: Costs

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
            loop = make_trial_loop(target, self.config, storage, self.texts, self.costs)
            loop.load_trials()
            loop.run(stopped)
