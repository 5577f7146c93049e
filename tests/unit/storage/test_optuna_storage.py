"""Finished trials survive kill -9, workers share them, and different searches are kept apart."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import distributed_worker
from support.distributed_worker import IDENTITY, MASKS

from skipopt.draft_config import DraftConfig
from skipopt.errors import OutputError, SearchError
from skipopt.masks import SkipMask
from skipopt.storage.base import Trial
from skipopt.storage.journal import (
    damage_note,
    holds_trials,
    is_unused,
    open_journal,
    read_content,
)
from skipopt.storage.optuna_storage import METRICS, OptunaStorage
from skipopt.storage.study_key import StudyLocation

A, B, C = MASKS[:3]
Open = Callable[..., OptunaStorage]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search.journal"


@pytest.fixture
def join(path: Path) -> Iterator[Open]:
    """Open the study as one more worker until the test ends."""
    opened: list[OptunaStorage] = []

    def join(shared: bool = True, **changes: Any) -> OptunaStorage:
        identity = replace(IDENTITY, **changes)
        opened.append(OptunaStorage(StudyLocation(str(path), "night", identity, shared)))
        return opened[-1]

    yield join
    for storage in opened:
        storage.close()


def trial(mask: SkipMask, value: float = 1.0) -> Trial:
    return Trial(mask, value, draft_config=DraftConfig.parse("int8"), pruned=True)


def content(trials: list[Trial]) -> list[Trial]:
    """A trial without the worker's name."""
    return [replace(each, worker=None) for each in trials]


def write(path: Path, count: int) -> bytes:
    """Write a journal of one worker with trials of the first masks; returns its bytes."""
    with closing(OptunaStorage(StudyLocation(str(path), "night", IDENTITY))) as storage:
        for mask in MASKS[:count]:
            storage.append(trial(mask))
    return path.read_bytes()


# --- trials of one worker


def test_trials_come_back_in_order(path: Path, join: Open) -> None:
    write(path, 5)
    assert join(shared=False).trials() == [trial(mask) for mask in MASKS[:5]]


def test_a_trial_is_on_disk_when_append_returns(join: Open) -> None:
    storage = join(shared=False)
    for number in range(3):
        storage.append(trial(MASKS[number]))
        assert len(join(shared=False).trials()) == number + 1


def test_a_single_worker_claims_every_mask_and_sees_no_new_trials(join: Open) -> None:
    one, other = join(shared=False), join(shared=False)
    assert one.claim([A, B]) == other.claim([A, B]) == [A, B]
    one.append(trial(A))
    assert other.new_trials() == []
    assert other.rank == 0


@pytest.mark.parametrize(
    ("key", "other"),
    [("model", "sha256:9"), ("prompts", "x"), ("objective", "matchness"), ("skip_ratio", 0.5)],
)
def test_the_journal_of_another_search_is_refused(
    path: Path, join: Open, key: str, other: object
) -> None:
    write(path, 2)
    with pytest.raises(SearchError, match=f"another search: its {key} is"):
        join(shared=False, **{key: other})
    assert len(join(shared=False).trials()) == 2


def test_a_study_of_another_program_is_refused(path: Path, join: Open) -> None:
    import optuna

    study = optuna.create_study(storage=open_journal(path), study_name="night")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(SearchError, match="not a study of skipopt"):
        join()


def test_an_unwritable_storage_is_reported_and_can_be_closed(path: Path, join: Open) -> None:
    storage = join()
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(OutputError, match="No such file"):
        storage.append(trial(A))
    storage.close()


# --- what a killed process leaves


@pytest.mark.parametrize("lost", [1, 2, 20])
def test_a_torn_last_line_loses_that_trial_only(path: Path, join: Open, lost: int) -> None:
    path.write_bytes(write(path, 3)[:-lost])
    storage = join(shared=False)
    assert storage.trials() == [trial(mask) for mask in MASKS[:2]]
    for mask in MASKS[2:5]:
        storage.append(trial(mask))
    assert join(shared=False).trials() == [trial(mask) for mask in MASKS[:5]]


def test_a_journal_torn_at_any_byte_can_be_resumed(path: Path, join: Open) -> None:
    whole = write(path, 1)
    for size in range(0, len(whole), 61):
        path.write_bytes(whole[:size])
        join(shared=False).append(trial(B))
        assert join(shared=False).trials()[-1] == trial(B)
        with pytest.raises(SearchError, match="another search"):
            join(shared=False, model="sha256:9")


def test_a_torn_line_is_cut_off_while_others_have_the_journal_open(path: Path, join: Open) -> None:
    one, other = join(), join()
    one.append(trial(A))
    with path.open("a") as file:
        file.write('{"op_code":4,"worker_id":"x","stu')
    other.append(trial(B))
    assert content(one.new_trials()) == [trial(B)]
    assert content(join().trials()) == [trial(A), trial(B)]
    assert not read_content(path).damaged


@pytest.mark.parametrize("kind", ["lock", "lock file"])
def test_the_lock_of_a_killed_process_is_broken(
    path: Path, join: Open, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "lock file":  # a file system without locks, or Windows
        monkeypatch.setattr("skipopt.storage.journal.lock", lambda file: False)
    monkeypatch.setattr("os.symlink", refuse)
    monkeypatch.chdir(path.parent.parent)
    relative = path.relative_to(path.parent.parent)
    join().append(trial(A))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns of a timeout of one second
        killed = open_journal(relative)._backend._lock  # type: ignore[attr-defined]
        killed.acquire()
        if kind == "lock":
            killed._file.close()  # as the system does
        storage = open_journal(relative, lock_timeout=1)
    storage.set_study_user_attr(0, "key", "value")
    assert content(join().trials()) == [trial(A)]


def refuse(*arguments: object) -> None:
    """As Windows and some file systems do."""
    raise OSError(errno.EPERM, "Operation not permitted")


CONFLICT = [b"<<<<<<< HEAD\n", b"=======\n", b">>>>>>> theirs\n"]


@pytest.mark.parametrize(
    "damage", [[b"\n"], [b'{"op_code":4,"wor\n'], [b'{"op_code":99}\n', b"\x00\xff\n"], CONFLICT]
)
def test_damaged_lines_in_the_middle_are_left_out_and_named(
    path: Path, join: Open, damage: list[bytes]
) -> None:
    lines = write(path, 4).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-2], *damage, *lines[-2:]]))
    one, other = join(shared=False), join(shared=False)
    assert one.trials() == other.trials() == [trial(mask) for mask in MASKS[:4]]
    one.append(trial(MASKS[4]))
    assert other.trials() == join(shared=False).trials() == [trial(mask) for mask in MASKS[:5]]
    note = damage_note(path)
    assert note is not None
    assert str(len(lines) - 1) in note


def test_a_line_behind_a_torn_one_counts(path: Path, join: Open) -> None:
    lines = write(path, 3).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-2], lines[-2][:40], *lines[-2:]]))
    assert join(shared=False).trials() == [trial(mask) for mask in MASKS[:3]]
    assert damage_note(path) is not None


def test_doubled_lines_count_once(path: Path, join: Open) -> None:
    lines = write(path, 3).splitlines(keepends=True)
    path.write_bytes(b"".join(line + line for line in lines))
    assert join(shared=False).trials() == [trial(mask) for mask in MASKS[:3]]
    assert damage_note(path) is None


def test_a_journal_without_the_line_that_names_the_search_is_refused(
    path: Path, join: Open
) -> None:
    path.write_bytes(b"".join(write(path, 3).splitlines(keepends=True)[1:]))
    with pytest.raises(SearchError, match="first line"):
        join(shared=False)


@pytest.mark.parametrize("change", ["dtype", "threads", "runtime", "device"])
def test_trials_of_other_conditions_are_not_taken_over(
    path: Path, join: Open, change: str
) -> None:
    join(shared=False, **{change: "before"}).append(trial(A))
    with pytest.raises(SearchError, match=f"its {change} is 'before', not 'now'") as refused:
        join(shared=False, **{change: "now"})
    assert change == "device" or f"--{change} before" in str(refused.value.hint)


def test_a_journal_without_trials_belongs_to_the_next_search(path: Path, join: Open) -> None:
    join(shared=False, model="sha256:8")
    assert is_unused(path)
    join(shared=False, model="sha256:9").append(trial(A))
    assert not is_unused(path)
    assert holds_trials(path)


# --- several workers


def test_trials_of_one_worker_are_new_to_the_others_once(join: Open) -> None:
    one, other = join(), join()
    one.append(trial(A))
    one.append(trial(B, 2.0))
    assert one.new_trials() == []
    assert content(other.new_trials()) == [trial(A), trial(B, 2.0)]
    assert other.new_trials() == []
    assert content(one.trials()) == content(other.trials()) == [trial(A), trial(B, 2.0)]


def test_of_two_trials_of_a_mask_the_first_counts(join: Open) -> None:
    one, other = join(), join()
    one.append(trial(A))
    other.append(trial(A, 7.0))
    one.append(trial(B))
    assert content(other.new_trials()) == [trial(B)]
    assert content(join().trials()) == [trial(A), trial(B)]


def test_masks_that_another_worker_is_scoring_are_not_claimed(join: Open) -> None:
    one, other = join(), join()
    assert one.claim([A, B]) == [A, B]
    assert other.claim([A, B, C]) == [C]
    assert one.claim([A]) == [A]  # no longer B
    assert other.claim([A, B]) == [B]
    one.close()
    assert other.claim([A, B]) == [A, B]


def test_a_journal_of_one_worker_can_be_shared_later_and_the_other_way_round(
    path: Path, join: Open
) -> None:
    write(path, 1)
    shared = join()
    shared.append(trial(B))
    assert content(shared.trials()) == [trial(A), trial(B)]
    assert content(join(shared=False).trials()) == [trial(A), trial(B)]


def test_each_worker_has_a_rank_and_a_name(join: Open) -> None:
    workers = [join() for _ in range(3)]
    assert [worker.rank for worker in workers] == [0, 1, 2]
    for worker, mask in zip(workers, MASKS, strict=False):
        worker.append(trial(mask))
    assert len({each.worker for each in workers[0].trials()}) == 3


@pytest.mark.slow
def test_a_killed_worker_stops_no_other_and_loses_one_mask_at_most(path: Path) -> None:
    doomed = start_worker(path, 60.0)
    assert doomed.stdout is not None
    in_flight = doomed.stdout.readline().removeprefix("at ").strip()
    others = [start_worker(path, 0.02) for _ in range(2)]
    os.kill(doomed.pid, signal.SIGKILL)
    for other in others:
        _, errors = other.communicate(timeout=120)
        assert other.returncode == 0, errors
    location = distributed_worker.locate(str(path), "night")
    with closing(OptunaStorage(location)) as storage:
        found = {str(each.mask) for each in storage.trials()}
    assert {str(mask) for mask in MASKS} - found <= {in_flight}


def start_worker(path: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, distributed_worker.__file__, str(path), "night", str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


# --- what Optuna's dashboard shows


@pytest.mark.parametrize("objective", ["speed", "matchness"])
def test_the_metric_has_a_name_and_trials_have_times_and_samplers(
    path: Path, join: Open, objective: str
) -> None:
    import optuna

    storage = join(shared=False, objective=objective)
    for mask in MASKS[:3]:
        time.sleep(0.02)  # scores it
        storage.append(replace(trial(mask), sampler="greedy"))
    study = optuna.load_study(study_name="night", storage=open_journal(path))
    assert study.metric_names == [METRICS[objective]]
    rows = study.get_trials()
    assert [row.user_attrs["sampler"] for row in rows] == ["greedy"] * 3
    starts = [row.datetime_start for row in rows]
    ends = [row.datetime_complete for row in rows]
    for start, end in zip(starts, ends, strict=True):
        assert start is not None
        assert end is not None
        assert (end - start).total_seconds() > 0.01
    assert starts[1] >= ends[0]  # type: ignore[operator]
    assert [each.sampler for each in storage.trials()] == ["greedy"] * 3
