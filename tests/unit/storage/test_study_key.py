"""Different searches are separate studies, and a message says so."""

from __future__ import annotations

import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.distributed_worker import IDENTITY, MASKS
from support.tiny import tiny_target

from skipopt.errors import SearchError, UsageError
from skipopt.storage.base import Trial
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import (
    StudyIdentity,
    StudyLocation,
    check_study_name,
    join_message,
    locate_study,
    study_key,
)
from skipopt.storage.workers import DistributedConfig


def test_an_identity_survives_json() -> None:
    identity = replace(IDENTITY, keep_layers=(0, 1), skip_ratio=0.5, device="cpu")
    assert StudyIdentity.from_json(identity.to_json()) == identity


@pytest.mark.parametrize(
    "change",
    [{"model": "b"}, {"keep_layers": (1,)}, {"gamma": 4}, {"device": "gpu"}, {"threads": 2}],
)
def test_searches_that_differ_are_different_studies(change: dict[str, Any]) -> None:
    other = replace(IDENTITY, **change)
    assert IDENTITY.differences(other) == list(change)
    assert study_key("night", IDENTITY) == study_key("night", replace(IDENTITY))
    assert len({study_key("night", IDENTITY), study_key("night", other)}) == 2


def test_studies_of_other_names_are_different() -> None:
    assert study_key("night", IDENTITY) != study_key("day", IDENTITY)


@pytest.mark.parametrize("name", ["", "  ", "x" * 201])
def test_a_study_name_of_the_wrong_length_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="characters"):
        check_study_name(name)


def test_the_join_message_names_trials_and_separate_studies(tmp_path: Path) -> None:
    spec = str(tmp_path / "shared.journal")
    identities = [replace(IDENTITY, device=device) for device in ("a", "b")]
    first, second = [StudyLocation(spec, study_key("night", i), i, True) for i in identities]
    with closing(OptunaStorage(first)):
        assert join_message("night", first, 0).endswith("shared.journal: 0 trials so far")
    with closing(OptunaStorage(second)) as storage:
        storage.append(Trial(MASKS[1], 1.0))
        line = join_message("night", second, 1)
    assert line.endswith("1 trials so far; separate from 1 more of that name: other device")
    with closing(OptunaStorage(first)) as storage:
        assert storage.trials() == []


def locate(journal: Path | None, resume: bool = False, **config: Any) -> StudyLocation | None:
    return locate_study(tiny_target(), DistributedConfig(**config), journal, IDENTITY, resume)


def test_a_search_keeps_its_trials_in_its_journal_or_on_the_shared_storage(
    tmp_path: Path,
) -> None:
    journal = tmp_path / "profile.yaml.journal"
    assert locate(None) is None
    alone = locate(journal)
    assert alone is not None
    assert alone == StudyLocation(str(journal), "skipopt", alone.identity)
    assert alone.identity.differences(IDENTITY) == ["device", "dtype", "threads", "runtime"]
    together = locate(journal, workers=2, load=tiny_target)
    assert together == replace(alone, shared=True)
    shared = locate(journal, storage="x.journal", study="night")
    assert shared is not None
    assert (shared.storage, shared.shared) == ("x.journal", True)
    assert shared.identity.device is not None
    assert pickle.loads(pickle.dumps(shared)) == shared


def test_an_existing_journal_is_refused_without_resume(tmp_path: Path) -> None:
    journal = tmp_path / "profile.yaml.journal"
    journal.write_text("trials\n")
    with pytest.raises(SearchError, match="holds an earlier search"):
        locate(journal)
    assert locate(journal, resume=True) is not None
    journal.write_text("")  # an early end of a search leaves it
    assert locate(journal) is not None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"workers": 0}, "1 or more"),
        ({"workers": 2}, "loads the model"),
        ({"workers": 2, "load": tiny_target}, "a journal or a storage"),
    ],
)
def test_workers_that_cannot_work_together_are_refused(config: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        locate(None, **config)
