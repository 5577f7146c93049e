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
from skipopt.storage.study_key import SharedStudy
from skipopt.storage.workers import Stopped
from skipopt.study.config import SearchConfig
from skipopt.study.objective import Objective
from skipopt.study.pruner import PairedPruner

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.masks import MaskSpace
    from skipopt.models.target import Target
    from skipopt.scoring import ScoredText

BATCH = 8
PATIENCE = 8  # trials for each free sublayer without a better mask, after which a search ends
HOPELESS_PATIENCE = 2  # the same while nothing promises any gain
BETTER = 0.002  # what counts as better, as a share
SECONDS_TO_WAIT = 0.1  # for others' results, where there is nothing to score meanwhile


class TrialLoop:
    """Trials so far, ours and others', and the sampler that has been told of them.

    Args:
        texts: those that masks are scored on.
        prices: what their traces are judged by.
        on_trial: called after each.
    """

    def __init__(
        self,
        target: Target,
        plan: SearchConfig,
        book: TrialStorage,
        texts: tuple[ScoredText, ...],
        costs: Costs,
        on_trial: Callable[[], None] = lambda: None,
    ) -> None:
        self.trials: list[Trial] = []
        self._plan = plan
        self._space: MaskSpace = plan.space(target.depth)
        self._book = book
        self._heats = PairedPruner(target, texts, Objective(plan, costs))
        self._sampler = make_sampler(
            plan.sampler,
            self._space,
            plan.seed + book.rank,  # other workers propose from `seed` on
            SamplerContext(target, texts, costs),
            speed_bound(costs) if plan.objective == "speed" else None,
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
        for trial in self._book.news():
            self._count(trial)

    def seek(self, stopped: Stopped) -> None:
        """Go on until stopped, the trials are done, nothing better comes or nothing is left.

        However short the time, something is scored.
        """
        while not self.trials or not (stopped() or self._done() or self._settled()):
            self.hear()
            masks = self._book.abandoned()
            asked = [] if masks else self._sampler.ask(self._batch_size())
            masks = masks or self._book.claim(asked)
            if masks:
                for trial in self._heats.judge(masks):
                    self._book.append(trial)
                    self._count(trial)
            elif asked or self._book.others_at_work():
                time.sleep(SECONDS_TO_WAIT)
            else:
                return  # the space is exhausted

    def _count(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._sampler.tell(trial.mask, trial.value)
        self._on_trial()

    def _done(self) -> bool:
        return self._plan.trials is not None and len(self.trials) >= self._plan.trials

    def _settled(self) -> bool:
        """Has nothing better been found for so long that more trials would not pay back?

        A number of trials that was asked for is done.
        """
        if self._plan.trials is not None:
            return False
        best = self.best
        hopeless = best is not None and self._plan.objective == "speed" and best.value <= 1
        patience = HOPELESS_PATIENCE if hopeless else PATIENCE
        count = round(patience * len(self._space.free))
        before, since = self.trials[:-count], self.trials[-count:]
        if not before:
            return False
        known = max(trial.value for trial in before)
        return max(trial.value for trial in since) < known * (1 + BETTER)

    def _batch_size(self) -> int:
        if self._plan.trials is None:
            return BATCH
        return max(1, min(BATCH, self._plan.trials - len(self.trials)))


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """A helper's part of a search, in a process of its own. Picklable.

    Prices and texts are the parent's: they were made on the same device, undisturbed.
    """

    load: Callable[[], Target]
    shared: SharedStudy
    plan: SearchConfig
    texts: tuple[ScoredText, ...]
    costs: Costs

    def __call__(self, stopped: Stopped) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        target = self.load()
        if target.fingerprint != self.shared.facts["model"]:
            raise SearchError("the model has changed since the search began")
        with closing(self.shared.open()) as book:
            seeker = TrialLoop(target, self.plan, book, self.texts, self.costs)
            seeker.take_up()
            seeker.seek(stopped)
