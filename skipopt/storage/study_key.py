"""Which study a search belongs to: trials of different searches are kept apart.

Trials belong together if model, prompts, objective, device, dtype, threads and runtime agree. On
a storage that several machines share, the study's name ends in a digest of these, so a worker for
which one differs uses another study. A journal file of its own holds one study, whose search must
be the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipopt.errors import SearchError, UsageError
from skipopt.measurement.provenance import conditions_of
from skipopt.storage.workers import DEFAULT_STUDY, DistributedConfig

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from skipopt.models.target import Target

IDENTITY = "search"  # the study's user attribute that holds its `StudyIdentity`
MAX_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """What trials must have in common to belong to one study.

    Attributes:
        layers: of the model.
        model, prompts: digests.
        objective, skip_ratio, keep_layers, gamma, tau: the options that fix what a value means.
        device, dtype, threads, runtime: what speeds were measured on.
    """

    layers: int
    model: str
    prompts: str
    objective: str
    skip_ratio: float | None = None
    keep_layers: tuple[int, ...] = ()
    gamma: int | None = None
    tau: float | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    runtime: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "keep_layers": list(self.keep_layers)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> StudyIdentity:
        """Raises KeyError or TypeError if it is not an identity."""
        return cls(**{**document, "keep_layers": tuple(document["keep_layers"])})

    def differences(self, other: StudyIdentity) -> list[str]:
        """Names of the attributes that differ."""
        others = other.to_json()
        return [key for key, value in self.to_json().items() if others[key] != value]


@dataclass(frozen=True, slots=True)
class StudyLocation:
    """Where the trials of a search are kept. Picklable, so that workers can open it too.

    Attributes:
        storage: a journal file, or the URL of a database.
        name: the study's full name there.
        identity: which search it belongs to.
        shared: whether other workers may use the study at the same time.
    """

    storage: str
    name: str
    identity: StudyIdentity
    shared: bool = False


def locate_study(
    target: Target,
    distributed: DistributedConfig,
    journal: Path | None,
    identity: StudyIdentity,
    resume: bool,
) -> StudyLocation | None:
    """Where this search keeps its trials; None if nowhere but in memory.

    Raises:
        UsageError: several workers, but no storage or no function that loads the model.
        SearchError: the journal exists, and `resume` is False.
    """
    check_distributed(distributed, journal)
    full = replace(identity, **conditions_of(target))
    if distributed.storage is not None:
        name = study_key(distributed.study, full)
        return StudyLocation(distributed.storage, name, full, shared=True)
    if journal is None:
        return None
    if not resume:
        check_unused(journal)
        journal.unlink(missing_ok=True)
    return StudyLocation(str(journal), DEFAULT_STUDY, full, distributed.workers > 1)


def check_unused(journal: Path) -> None:
    """Raise SearchError if the file exists, unless it is a journal without any trial."""
    from skipopt.storage.journal import is_unused

    if journal.exists() and not is_unused(journal):
        raise SearchError(
            f"{journal} holds an earlier search",
            hint="--resume continues it, --overwrite deletes it and starts anew",
        )


def check_distributed(distributed: DistributedConfig, journal: Path | None) -> None:
    """Raise UsageError if the workers cannot work together."""
    if distributed.workers < 1:
        raise UsageError(f"workers must be 1 or more, not {distributed.workers}")
    if distributed.workers == 1:
        return
    if distributed.load is None:
        raise UsageError(
            "further workers need a function that loads the model",
            hint="give DistributedConfig(load=…)",
        )
    if distributed.storage is None and journal is None:
        raise UsageError("several workers need a journal or a storage to share")


def study_key(study: str, identity: StudyIdentity) -> str:
    """The full name of a study on a shared storage: its name and a digest of its identity.

    Raises:
        UsageError: the name is empty or too long.
    """
    check_study_name(study)
    document = json.dumps(identity.to_json(), sort_keys=True)
    return f"{study}-{hashlib.sha256(document.encode()).hexdigest()[:12]}"


def check_study_name(study: str) -> None:
    """Raise UsageError if the name is empty or too long."""
    if not 0 < len(study.strip()) <= MAX_NAME_LENGTH:
        raise UsageError(
            f"the study's name must be 1 to {MAX_NAME_LENGTH} characters long",
            hint="try --study night",
        )


def join_message(study: str, location: StudyLocation, trials: int) -> str:
    """The line that is printed when a search joins a study on a shared storage.

    Args:
        study: its name as the user gave it.
        trials: how many it holds.
    """
    from skipopt.storage.backends import open_storage, redacted_url, translate_errors

    storage = open_storage(location.storage)
    with translate_errors(location.storage):
        studies = _studies_named(storage, study)
    others = [identity for name, identity in studies.items() if name != location.name]
    line = f"study {study!r} on {redacted_url(location.storage)}: {trials} trials so far"
    if not others:
        return line
    keys = dict.fromkeys(key for each in others for key in location.identity.differences(each))
    return f"{line}; separate from {len(others)} more of that name: other {', '.join(keys)}"


def find_study_name(storage: BaseStorage, spec: str, name: str) -> str:
    """The full name of a study, given that or the name it was started under.

    Args:
        spec: the storage, for messages.

    Raises:
        SearchError: there is none, or there are several.
    """
    import optuna

    from skipopt.storage.backends import redacted_url

    existing = optuna.get_all_study_names(storage)
    if name in existing:
        return name
    studies = _studies_named(storage, name)
    if not studies:
        raise SearchError(
            f"there is no study {name!r} on {redacted_url(spec)}",
            hint=f"give one with --storage and --study: {', '.join(existing) or 'there is none'}",
        )
    if len(studies) > 1:
        raise SearchError(
            f"there are {len(studies)} studies {name!r} on {redacted_url(spec)}",
            hint=f"name one of them: {', '.join(_describe(studies))}",
        )
    return next(iter(studies))


def _studies_named(storage: BaseStorage, name: str) -> dict[str, StudyIdentity]:
    """The identity of every study started under a name, by its full name."""
    import optuna

    found: dict[str, StudyIdentity] = {}
    for each in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if each.study_name.startswith(f"{name}-") and IDENTITY in each.user_attrs:
            identity = StudyIdentity.from_json(each.user_attrs[IDENTITY])
            if each.study_name == study_key(name, identity):
                found[each.study_name] = identity
    return found


def _describe(studies: Mapping[str, StudyIdentity]) -> list[str]:
    """Each study with what differs between them: `night-0a1b2c (dtype float32)`."""
    first, *others = studies.values()
    keys = dict.fromkeys(key for each in others for key in first.differences(each))
    return [
        f"{name} ({', '.join(f'{key} {getattr(identity, key)}' for key in keys)})"
        for name, identity in studies.items()
    ]
