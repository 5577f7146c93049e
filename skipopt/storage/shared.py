"""One study that many workers keep their trials in: an Optuna storage, each mask finished once.

A claim is a running trial with the mask as an attribute. Two workers may claim a mask at the same
moment: both look afterwards, and the lower trial number stands. A claim ends finished or failed,
and Optuna lets a trial end once only. A mask with failed claims alone is free again.
Knows nothing of models, samplers or of how a mask is scored.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from skipopt.errors import SkipoptError
from skipopt.masks import SkipMask
from skipopt.storage.backends import open_storage, place_of, translate_errors
from skipopt.storage.base import Trial
from skipopt.storage.heartbeat import (
    BEAT_SECONDS,
    SILENT_SECONDS,
    HeartbeatThread,
    StaleWorkerDetector,
)
from skipopt.storage.journal import check_facts, open_study, parameters

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

WORKER = "worker"  # of a claim: whose it is
AT_ONCE = 8  # masks of the dead that one worker takes up; the others want some, too
DEPTH = "layers"  # of a study: those of the model
BEAT = "beat:"  # of a study, with the worker's name behind it: how many times it has beaten


class SharedStorage:
    """A `Book` on an Optuna storage.

    Args:
        spec: a journal file, or the URL of a database (see `searching.storage`).
        name: of the study there; created where there is none.
        facts: what this search is; a study with other facts belongs to another search.
        limit: trials that may be claimed and finished in all, by everybody; None: no limit.
        beat, silence: seconds between signs of life, and without one until a worker counts as
            dead.

    Attributes:
        worker: our name on the study.

    Raises:
        SearchError: not to be reached, or another search's study.
        UsageError: a storage that cannot be shared, or without a driver.
        OutputError: a journal file that cannot be read or written.
    """

    def __init__(
        self,
        spec: str,
        name: str,
        layers: int,
        facts: Mapping[str, Any],
        *,
        limit: int | None = None,
        beat: float = BEAT_SECONDS,
        silence: float = SILENT_SECONDS,
    ) -> None:
        self._spec = spec
        self._layers = layers
        self._limit = limit
        self._claims: dict[SkipMask, int] = {}
        self._told: set[str] = set()  # masks whose trial the caller knows
        self._watch = StaleWorkerDetector(silence)
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._storage = open_storage(spec)
        # A database looks up each parameter of a new trial, under a lock that all workers want.
        self._with_parameters = isinstance(self._storage, JournalStorage)
        with translate_errors(spec):
            self._study: Study = open_study(self._storage, name)
            check_facts(self._study, facts, place_of(spec))
            self._id = self._storage.get_study_id_from_name(name)
            self._storage.set_study_system_attr(self._id, DEPTH, layers)
            self._rank = len(self._beats())
        self._beating = HeartbeatThread(self._beat, beat)

    @property
    def rank(self) -> int:
        return self._rank

    # --- finished trials

    def trials(self) -> list[Trial]:
        self._told.clear()
        return self.news()

    def news(self) -> list[Trial]:
        with translate_errors(self._spec):
            finished = _first(self._rows(), (TrialState.COMPLETE,))
        fresh = [mask for mask in finished if mask not in self._told]
        self._told.update(fresh)
        return [self._trial(finished[mask]) for mask in fresh]

    def append(self, trial: Trial) -> None:
        self._told.add(str(trial.mask))
        with translate_errors(self._spec):
            while trial.mask in self._claims or self._claim([trial.mask]):
                if self._finish(self._claims.pop(trial.mask), trial):
                    return
                # We were taken for dead; unless somebody has claimed it since, we claim it again.

    def _finish(self, claim: int, trial: Trial) -> bool:
        """False where the claim is no longer ours."""
        try:
            for key, value in trial.to_json().items():
                if key not in ("mask", "value"):  # the claim holds the mask
                    self._storage.set_trial_user_attr(claim, key, value)
            state = TrialState.COMPLETE
            return self._storage.set_trial_state_values(claim, state, [trial.value])
        except UpdateFinishedTrialError:
            return False

    # --- claims

    def claim(self, masks: Sequence[SkipMask]) -> list[SkipMask]:
        with translate_errors(self._spec):
            return self._claim(masks)

    def abandoned(self) -> list[SkipMask]:
        with translate_errors(self._spec):
            beats = self._beats()
            for row in self._rows():
                if row.state == TrialState.RUNNING and self._is_dead(row, beats):
                    self._fail(row._trial_id)
            rows = self._rows()
            standing = _standing(rows)
            free = dict.fromkeys(_mask(row) for row in rows if _mask(row) not in standing)
            few = list(free)[:AT_ONCE]
            return self._claim([SkipMask.parse(mask, self._layers) for mask in few])

    def others_at_work(self) -> bool:
        with translate_errors(self._spec):
            running = (row for row in self._rows() if row.state == TrialState.RUNNING)
            return any(row.system_attrs.get(WORKER) != self.worker for row in running)

    def close(self) -> None:
        self._beating.stop()
        # A storage that is gone takes us for dead; that must not hide why it is left.
        with suppress(SkipoptError), translate_errors(self._spec):
            while self._claims:
                _, claim = self._claims.popitem()
                self._fail(claim)

    def _claim(self, masks: Iterable[SkipMask]) -> list[SkipMask]:
        standing = _standing(self._rows())
        wanted = [mask for mask in masks if str(mask) not in standing]
        if self._limit is not None:
            wanted = wanted[: max(0, self._limit - len(standing))]
        if not wanted:
            return []
        made = {mask: self._create(mask) for mask in wanted}
        # The look afterwards sees every claim with a lower number than ours.
        standing = _standing(self._rows())
        ours = {row._trial_id for row in list(standing.values())[: self._limit]}
        for mask, claim in made.items():
            if claim in ours:
                self._claims[mask] = claim
            else:
                self._fail(claim)
        return [mask for mask in wanted if mask in self._claims]

    def _create(self, mask: SkipMask) -> int:
        row = create_trial(
            **(parameters(mask) if self._with_parameters else {}),
            state=TrialState.RUNNING,
            user_attrs={"mask": str(mask)},
            system_attrs={WORKER: self.worker},
        )
        return self._storage.create_new_trial(self._id, row)

    def _fail(self, claim: int) -> None:
        try:
            self._storage.set_trial_state_values(claim, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return  # somebody was faster

    # --- signs of life

    def _beat(self, count: int) -> None:
        self._storage.set_study_system_attr(self._id, BEAT + self.worker, count)

    def _beats(self) -> dict[str, int]:
        attributes = self._storage.get_study_system_attrs(self._id)
        return {
            key.removeprefix(BEAT): int(value)
            for key, value in attributes.items()
            if key.startswith(BEAT)
        }

    def _is_dead(self, row: FrozenTrial, beats: Mapping[str, int]) -> bool:
        worker = str(row.system_attrs.get(WORKER))
        return worker != self.worker and self._watch.silent(worker, beats.get(worker))

    # --- rows

    def _rows(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial(self, row: FrozenTrial) -> Trial:
        worker = row.system_attrs.get(WORKER)
        return Trial.from_json(
            {**row.user_attrs, "value": row.value, "worker": worker}, self._layers
        )


def kept_layers(storage: BaseStorage, name: str) -> int | None:
    """How many layers the model of a study has; None where no worker of ours wrote it."""
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name(name))
    return attributes.get(DEPTH)


def _mask(row: FrozenTrial) -> str:
    return str(row.user_attrs["mask"])


def _standing(rows: Iterable[FrozenTrial]) -> dict[str, FrozenTrial]:
    """Of every mask that is finished or claimed, the trial that counts."""
    return _first(rows, (TrialState.RUNNING, TrialState.COMPLETE))


def _first(rows: Iterable[FrozenTrial], states: Sequence[TrialState]) -> dict[str, FrozenTrial]:
    """Of every mask in one of these states the trial of the lowest number, in their order."""
    found: dict[str, FrozenTrial] = {}
    for row in rows:
        if row.state in states:
            found.setdefault(_mask(row), row)
    return found
