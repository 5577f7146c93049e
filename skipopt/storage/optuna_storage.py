"""Trials in an Optuna storage, of one worker or of many.

A trial is added when it is finished, in one write, so that a killed process loses only the masks
it was scoring. Two workers may score the same mask; the first of its trials counts. To make that
rare, each worker on a shared study lists the masks it is scoring in an attribute of the study.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna
from optuna.distributions import IntDistribution
from optuna.storages import JournalStorage
from optuna.trial import TrialState, create_trial

from skipopt.errors import SearchError, SkipoptError
from skipopt.interrupts import interrupts_held
from skipopt.masks import SkipMask, sublayer_name
from skipopt.storage.backends import open_storage, redacted_url, translate_errors
from skipopt.storage.base import Trial
from skipopt.storage.study_key import IDENTITY, StudyIdentity, StudyLocation

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# What Optuna's dashboard calls a trial's value, by objective.
METRICS = {"speed": "predicted speedup", "matchness": "matchness"}
LOADING = ("dtype", "threads", "runtime")  # named like the options that they come from
SCORING = "scoring:"  # prefix of a worker's study attribute: the masks it is scoring


class Claim(NamedTuple):
    """The masks that a worker is scoring, and when it began, in seconds since 1970."""

    worker: str
    began: float
    masks: list[str]


class OptunaStorage:
    """A `TrialStorage` on one study of an Optuna storage.

    Args:
        location: the study; created if there is none.

    Raises:
        SearchError: it cannot be reached, or belongs to another search.
        UsageError: a storage that cannot be shared, or its driver is not installed.
        OutputError: a journal that cannot be read or written.
    """

    def __init__(self, location: StudyLocation) -> None:
        self._location = location
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._seen: set[SkipMask] = set()  # masks whose trial the caller knows
        self._rank = 0
        self._last_append = datetime.now()
        self._storage = open_storage(location.storage)
        with translate_errors(location.storage):
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=location.name,
                direction="maximize",
                load_if_exists=True,
            )
            self._study_id = self._storage.get_study_id_from_name(location.name)
            check_identity(self._study, location)
            if location.shared:
                self._rank = len(self._claims())
                self._set_scoring([])

    @property
    def rank(self) -> int:
        return self._rank

    def trials(self) -> list[Trial]:
        self._seen.clear()
        return self._unseen()

    def new_trials(self) -> list[Trial]:
        return self._unseen() if self._location.shared else []

    def claim(self, masks: Sequence[SkipMask]) -> list[SkipMask]:
        if not self._location.shared:
            return list(masks)
        with translate_errors(self._location.storage):
            taken = self._taken()
            free = [mask for mask in masks if str(mask) not in taken]
            began = time.time()
            self._set_scoring(free, began)
            taken = self._taken(before=(began, self._worker))
            mine = [mask for mask in free if str(mask) not in taken]
            if mine != free:
                self._set_scoring(mine, began)
        return mine

    def append(self, trial: Trial) -> None:
        if self._location.shared:
            trial = replace(trial, worker=self._worker)
        with interrupts_held(), translate_errors(self._location.storage):
            self._study.add_trial(self._frozen(trial))
        self._last_append = datetime.now()
        self._seen.add(trial.mask)

    def close(self) -> None:
        # An unreachable storage must not hide the error because of which it is closed.
        with suppress(SkipoptError), translate_errors(self._location.storage):
            if self._location.shared:
                self._set_scoring([])

    def _unseen(self) -> list[Trial]:
        with translate_errors(self._location.storage):
            trials = read_trials(self._study, self._location.identity.layers)
        new = [trial for trial in trials if trial.mask not in self._seen]
        self._seen.update(trial.mask for trial in new)
        return new

    def _taken(self, before: tuple[float, str] | None = None) -> set[str]:
        """Masks that other workers are scoring; `before` a time and worker, or at any time.

        A worker looks again after it has listed its masks, as another one may have listed the
        same at the same time; the first of both keeps them.
        """
        others = [claim for claim in self._claims() if claim.worker != self._worker]
        return {
            mask
            for claim in others
            if before is None or (claim.began, claim.worker) < before
            for mask in claim.masks
        }

    def _claims(self) -> list[Claim]:
        attributes = self._storage.get_study_system_attrs(self._study_id)
        return [
            Claim(key.removeprefix(SCORING), **claim)
            for key, claim in attributes.items()
            if key.startswith(SCORING) and isinstance(claim, dict)
        ]

    def _set_scoring(self, masks: Sequence[SkipMask], began: float = 0.0) -> None:
        claim: dict[str, Any] = {"began": began, "masks": [*map(str, masks)]}
        self._storage.set_study_system_attr(self._study_id, SCORING + self._worker, claim)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        # A database looks up each of the 2L parameters while it locks the study.
        in_journal = isinstance(self._storage, JournalStorage)
        attributes = trial.to_json()
        made = create_trial(
            **(mask_parameters(trial.mask) if in_journal else {}),
            value=attributes.pop("value"),
            user_attrs=attributes,
        )
        # Masks are scored in batches, so a trial begins where the one before has ended.
        made.datetime_start = min(self._last_append, made.datetime_complete or self._last_append)
        return made


def check_identity(study: optuna.Study, location: StudyLocation) -> None:
    """Record in a study without trials which search it belongs to.

    Raises:
        SearchError: it belongs to another one.
    """
    if not study.get_trials(deepcopy=False):
        document = location.identity.to_json()
        if study.user_attrs.get(IDENTITY) != document:
            study.set_user_attr(IDENTITY, document)
            _name_metric(study, location.identity.objective)
        return
    existing, place = read_identity(study), redacted_url(location.storage)
    for key in existing.differences(location.identity):
        before = getattr(existing, key)
        option = f"--{key} {before}" if key in LOADING and before is not None else "--output FILE"
        raise SearchError(
            f"{place} belongs to another search: its {key} is {before!r}, "
            f"not {getattr(location.identity, key)!r}",
            hint=f"give {option}, or start anew with --overwrite",
        )


def _name_metric(study: optuna.Study, objective: str) -> None:
    """Tell Optuna's dashboard what values are; the call is experimental there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([METRICS.get(objective, objective)])


def read_identity(study: optuna.Study) -> StudyIdentity:
    """Which search a study belongs to.

    Raises:
        SearchError: it is not a study of skipopt.
    """
    try:
        return StudyIdentity.from_json(study.user_attrs[IDENTITY])
    except (KeyError, TypeError):
        raise SearchError(
            f"{study.study_name!r} is not a study of skipopt search",
            hint="name another study or file",
        ) from None


def read_trials(study: optuna.Study, layers: int) -> list[Trial]:
    """Finished trials in the order of their numbers; of each mask the first."""
    trials: dict[SkipMask, Trial] = {}
    for trial in _finished(study, layers):
        trials.setdefault(trial.mask, trial)
    return list(trials.values())


def _finished(study: optuna.Study, layers: int) -> Iterator[Trial]:
    for row in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        try:
            trial = Trial.from_json({**row.user_attrs, "value": row.value}, layers)
        except (KeyError, TypeError, ValueError, SkipoptError):
            continue  # damaged, or of another program
        yield trial


def mask_parameters(mask: SkipMask) -> dict[str, Any]:
    """The mask as Optuna's dashboard shows it: one parameter 0 or 1 per sublayer."""
    names = [sublayer_name(i) for i in range(len(mask.bits))]
    return {
        "params": dict(zip(names, mask.bits, strict=True)),
        "distributions": dict.fromkeys(names, IntDistribution(0, 1)),
    }
