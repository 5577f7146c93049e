"""Which study a worker joins: what must not mix is kept apart by the study's name.

On a storage that machines share, the name ends in a digest of model, prompts, objective, device,
dtype, threads and runtime: a worker on an unlike device works in a part of its own. Knows nothing
of how trials are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipopt.bench.provenance import environment_of
from skipopt.errors import SearchError, UsageError
from skipopt.storage.journal import STUDY_NAME

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from skipopt.models.target import Target
    from skipopt.storage.shared import SharedStorage
    from skipopt.storage.workers import DistributedConfig

MEASURED_ON = ("device", "dtype", "threads", "runtime")  # speeds of unlike ones do not compare
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class SharedStudy:
    """A study that several workers open; picklable.

    Attributes:
        spec: a journal file, or the URL of a database.
        name: the study's name there.
        layers: of the model.
        facts: what search it is.
        limit: trials in all, at most; None: no limit.
    """

    spec: str
    name: str
    layers: int
    facts: dict[str, Any]
    limit: int | None = None

    def open(self) -> SharedStorage:
        """As one more worker.

        Raises:
            SearchError, UsageError, OutputError: see `SharedStorage`.
        """
        from skipopt.storage.shared import SharedStorage

        return SharedStorage(self.spec, self.name, self.layers, self.facts, limit=self.limit)


def find_study(
    target: Target,
    sharing: DistributedConfig,
    journal: Path | None,
    facts: Mapping[str, Any],
    limit: int | None,
    resume: bool,
) -> SharedStudy | None:
    """The study that this search shares with others; None where it has no others.

    Raises:
        UsageError: nothing to share it by, or no way for a helper to get the model.
        SearchError: the journal holds an earlier search, and `resume` is False.
    """
    if sharing.workers < 1:
        raise UsageError(f"workers must be 1 or more, not {sharing.workers}")
    if sharing.workers > 1 and sharing.load is None:
        raise UsageError(
            "further workers need a way to load the model", hint="give Sharing(load=…)"
        )
    if sharing.storage is not None:
        here = environment_of(target)
        whole = {**facts, **{key: here[key] for key in MEASURED_ON}}
        name = study_key(sharing.study, whole)
        return SharedStudy(sharing.storage, name, target.depth, whole, limit)
    if sharing.workers == 1:
        return None
    if journal is None:
        raise UsageError("several workers need a journal or a storage to share")
    if journal.exists() and not resume:
        raise SearchError(
            f"{journal} holds an earlier search",
            hint="go on with --resume, or delete the file to start anew",
        )
    return SharedStudy(str(journal), STUDY_NAME, target.depth, dict(facts), limit)


def study_key(study: str, facts: Mapping[str, Any]) -> str:
    """The name on the storage: unlike facts, another name.

    Raises:
        UsageError: the name is empty or too long.
    """
    if not 0 < len(study.strip()) <= LONGEST_NAME:
        raise UsageError(
            f"the study's name must be 1 to {LONGEST_NAME} characters long",
            hint="try --study night",
        )
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()
    return f"{study}-{digest[:12]}"


def join_message(sharing: DistributedConfig, study: SharedStudy, trials: int) -> str:
    """What a worker is told that joins a study on a storage."""
    from skipopt.storage.backends import place_of

    line = f"study {sharing.study!r} on {place_of(study.spec)}: {trials} trials so far"
    count, unlike = _other_parts(sharing.study, study)
    if not count:
        return line
    return (
        f"{line}; {count} more of that name, unlike in {', '.join(unlike)}: "
        "kept apart, their results do not mix with these"
    )


def _other_parts(name: str, study: SharedStudy) -> tuple[int, list[str]]:
    """How many studies were named alike, and in which facts they are unlike this one."""
    from skipopt.storage.backends import open_storage, translate_errors

    storage = open_storage(study.spec)
    with translate_errors(study.spec):
        parts = _parts(storage, name)
    others = [facts for whole, facts in parts.items() if whole != study.name]
    keys = study.facts
    return len(others), [k for k in keys if any(o.get(k) != keys[k] for o in others)]


def find_part(storage: BaseStorage, spec: str, name: str) -> str:
    """The whole name of a study, from that or from what it was begun under.

    Raises:
        SearchError: there is none, or several.
    """
    from optuna import get_all_study_names

    from skipopt.storage.backends import place_of

    there = get_all_study_names(storage)
    if name in there:
        return name
    parts = _parts(storage, name)
    if not parts:
        raise SearchError(
            f"there is no study {name!r} on {place_of(spec)}",
            hint=f"there are: {', '.join(there) or 'none'}",
        )
    if len(parts) > 1:
        raise SearchError(
            f"study {name!r} on {place_of(spec)} has {len(parts)} parts, of unlike searches",
            hint=f"name one of them: {', '.join(_told_apart(parts))}",
        )
    return next(iter(parts))


def _parts(storage: BaseStorage, name: str) -> dict[str, Mapping[str, Any]]:
    """The facts of every study that was begun under a name, by its whole name."""
    from optuna import get_all_study_summaries

    found = get_all_study_summaries(storage, include_best_trial=False)
    facts = {each.study_name: each.user_attrs for each in found}
    return {whole: f for whole, f in facts.items() if whole == study_key(name, f)}


def _told_apart(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each with the facts in which not all are alike: `night-0a1b2c (dtype float32)`."""
    keys = dict.fromkeys(key for facts in parts.values() for key in facts)
    unlike = [k for k in keys if len({str(facts.get(k)) for facts in parts.values()}) > 1]
    return [
        f"{whole} ({', '.join(f'{k} {facts.get(k)}' for k in unlike)})"
        for whole, facts in parts.items()
    ]
