"""One worker's part of a search: propose masks, score them, keep what they are worth.

Knows nothing of calibration, confirmation or profiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.errors import SearchError
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.registry import make_sampler
from skipopt.samplers.upper_bound import speed_bound
from skipopt.storage.base import Trial, TrialStorage
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyLocation
from skipopt.storage.workers import Stopped
from skipopt.study.config import SearchConfig
from skipopt.study.objective import Objective
from skipopt.study.pruner import PairedPruner

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.masks import MaskSpace, SkipMask
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText

BATCH = 8
PATIENCE = 8  # trials for each free sublayer without a better mask, after which a search ends
HOPELESS_PATIENCE = 2  # the same while nothing promises any gain
BETTER = 0.002  # what counts as better, as a share
CLAIM_SECONDS = 30.0  # after which a mask that another worker announced is scored here, too


class TrialLoop:
    """Trials so far, ours and others', and the sampler that has been told of them.

    Args:
        texts: those that masks are scored on.
        prices: what their traces are judged by.
        on_trial: called after each.
        claim_seconds: how long to wait for the value of a mask that another worker scores.
    """

    def __init__(
        self,
        target: Target,
        config: SearchConfig,
        book: TrialStorage,
        texts: tuple[ScoredText, ...],
        costs: Costs,
        on_trial: Callable[[], None] = lambda: None,
        claim_seconds: float = CLAIM_SECONDS,
    ) -> None:
        self.trials: list[Trial] = []
        self._deferred: dict[SkipMask, float] = {}  # when other workers' masks were proposed here
        self._claim_seconds = claim_seconds
        self._config = config
        self._space: MaskSpace = config.mask_space(target.depth)
        self._book = book
        self._heats = PairedPruner(target, texts, Objective(config, costs))
        self._sampler = make_sampler(
            config.sampler,
            self._space,
            config.seed + book.rank,  # other workers propose from `seed` on
            SamplerContext(target, texts, costs),
            speed_bound(costs) if config.objective == "speed" else None,
        )
        self._on_trial = on_trial

    @property
    def best(self) -> Trial | None:
        return max(self.trials, key=lambda t: t.value, default=None)

    def ranked(self) -> list[Trial]:
        """Trials that skip anything, best first."""
        return sorted((t for t in self.trials if t.mask.skipped), key=lambda t: -t.value)

    def take_up(self) -> None:
        """Trials of an earlier run, or of other workers, count as told."""
        for trial in self._book.trials():
            self._count(trial)

    def hear(self) -> None:
        """What others have finished counts as ours does."""
        for trial in self._book.new_trials():
            self._count(trial)

    def seek(self, stopped: Stopped) -> None:
        """Go on until stopped, the trials are done, nothing better comes or nothing is left.

        However short the time, something is scored.
        """
        while not self.trials or not (stopped() or self._done() or self._settled()):
            self.hear()
            masks = self._next_batch()
            if not masks:
                return  # the space is exhausted
            for trial in self._heats.judge(masks):
                self._book.append(trial)
                self._count(trial)

    def _next_batch(self) -> list[SkipMask]:
        """Masks to score now; none when the space is exhausted.

        Masks that another worker scores are deferred: their value should come from it. Those
        that it has not finished in time (it may have been killed) are scored here.
        """
        size = self._batch_size()
        if overdue := self._overdue(size):
            return overdue
        while asked := self._sampler.ask(size):
            free = self._book.claim(asked)
            now = time.monotonic()
            self._deferred.update({mask: now for mask in asked if mask not in free})
            if free:
                return free
        return list(self._deferred)[:size]

    def _overdue(self, count: int) -> list[SkipMask]:
        """Up to `count` masks that were deferred too long ago."""
        since = time.monotonic() - self._claim_seconds
        return [mask for mask, deferred in self._deferred.items() if deferred < since][:count]

    def _count(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._deferred.pop(trial.mask, None)
        self._sampler.tell(trial.mask, trial.value)
        self._on_trial()

    def _done(self) -> bool:
        return self._config.trials is not None and len(self.trials) >= self._config.trials

    def _settled(self) -> bool:
        """Has nothing better been found for so long that more trials would not pay back?

        A number of trials that was asked for is done.
        """
        if self._config.trials is not None:
            return False
        best = self.best
        hopeless = best is not None and self._config.objective == "speed" and best.value <= 1
        patience = HOPELESS_PATIENCE if hopeless else PATIENCE
        count = round(patience * len(self._space.free))
        before, since = self.trials[:-count], self.trials[-count:]
        if not before:
            return False
        known = max(trial.value for trial in before)
        return max(trial.value for trial in since) < known * (1 + BETTER)

    def _batch_size(self) -> int:
        if self._config.trials is None:
            return BATCH
        return max(1, min(BATCH, self._config.trials - len(self.trials)))


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """A helper's part of a search, in a process of its own. Picklable.

    Prices and texts are the parent's: they were made on the same device, undisturbed.
    """

    load: Callable[[], Target]
    location: StudyLocation
    config: SearchConfig
    texts: tuple[ScoredText, ...]
    costs: Costs

    def __call__(self, stopped: Stopped) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        target = self.load()
        if target.fingerprint != self.location.identity.model:
            raise SearchError("the model has changed since the search began")
        with closing(OptunaStorage(self.location)) as book:
            seeker = TrialLoop(target, self.config, book, self.texts, self.costs)
            seeker.take_up()
            seeker.seek(stopped)
