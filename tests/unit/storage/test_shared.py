"""A study that many workers share: every mask is finished once, whoever is killed or slow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import shared_worker
from support.shared_worker import FACTS, LAYERS, MASKS

from skipopt.errors import OutputError, SearchError, UsageError
from skipopt.masks import SkipMask
from skipopt.storage import backends
from skipopt.storage.base import Trial
from skipopt.storage.heartbeat import StaleWorkerDetector
from skipopt.storage.journal import STUDY_NAME, Journal
from skipopt.storage.shared import SharedStorage
from skipopt.storage.study_key import SharedStudy, join_message, study_key
from skipopt.storage.workers import DistributedConfig

A, B, C, D = MASKS[:4]
Open = Callable[..., SharedStorage]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared.journal"


@pytest.fixture
def join(path: Path) -> Iterator[Open]:
    """One more worker on the same study, which lives until the test ends."""
    opened: list[SharedStorage] = []

    def join(
        name: str = STUDY_NAME, facts: dict[str, Any] = FACTS, **options: Any
    ) -> SharedStorage:
        book = SharedStorage(str(path), name, LAYERS, facts, **{"beat": 0.05, **options})
        opened.append(book)
        return book

    yield join
    for book in opened:
        book.close()


def scored(mask: SkipMask, value: float = 1.0) -> Trial:
    return Trial(mask, value)


def killed(book: SharedStorage) -> None:
    """Silent from now on, with its claims as they are."""
    book._beating.stop()


# --- finished trials


def test_what_one_worker_finishes_the_others_hear_once(join: Open) -> None:
    one, other = join(), join()
    one.claim([A, B])
    one.append(scored(A))
    one.append(scored(B, 2.0))
    assert one.news() == []
    assert other.news() == [scored(A), scored(B, 2.0)]
    assert other.news() == []
    assert one.trials() == other.trials() == [scored(A), scored(B, 2.0)]


def test_a_second_trial_of_a_mask_is_dropped(join: Open) -> None:
    one, other = join(), join()
    one.claim([A])
    one.append(scored(A))
    other.append(scored(A, 7.0))
    one.append(scored(A, 8.0))
    assert join().trials() == [scored(A)]


def test_a_trial_that_was_never_claimed_is_kept(join: Open) -> None:
    join().append(scored(A))
    assert join().trials() == [scored(A)]


def test_an_unshared_journal_can_be_shared_later_and_the_other_way_round(
    path: Path, join: Open
) -> None:
    journal = Journal(path, LAYERS, FACTS)
    journal.append(scored(A))
    shared = join()
    assert shared.trials() == [scored(A)]
    assert shared.claim([A, B]) == [B]
    shared.append(scored(B))
    assert Journal(path, LAYERS, FACTS, resume=True).trials() == [scored(A), scored(B)]


def test_a_mask_that_was_finished_twice_all_the_same_shows_once(path: Path, join: Open) -> None:
    journal = Journal(path, LAYERS, FACTS)
    for each in (scored(A), scored(B), scored(A, 5.0)):
        journal.append(each)
    assert journal.trials() == join().trials() == [scored(A), scored(B)]
    assert join().news() == [scored(A), scored(B)]


def test_a_storage_that_is_gone_does_not_keep_a_worker_from_closing(
    path: Path, join: Open
) -> None:
    book = join()
    book.claim([A])
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(OutputError, match="No such file"):
        book.append(scored(A))
    book.close()


def test_another_search_is_refused(join: Open) -> None:
    join()
    with pytest.raises(SearchError, match="another search: its objective is"):
        join(facts={**FACTS, "objective": "matchness"})


# --- claims


def test_a_claimed_mask_is_nobody_elses(join: Open) -> None:
    one, other = join(), join()
    assert one.claim([A, B]) == [A, B]
    assert other.claim([A, B, C]) == [C]
    assert other.others_at_work()
    assert one.abandoned() == other.abandoned() == []


def test_of_claims_at_the_same_moment_the_earlier_stands(
    join: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = join(), join()
    look = other._rows
    before = look()

    def late_look() -> list[Any]:
        """What there was before the other worker's claim; later, the truth."""
        monkeypatch.setattr(other, "_rows", look)
        return before

    monkeypatch.setattr(other, "_rows", late_look)
    assert one.claim([A]) == [A]
    assert other.claim([A, B]) == [B]
    one.append(scored(A))
    other.append(scored(B))
    assert join().trials() == [scored(A), scored(B)]


def test_no_more_is_claimed_than_the_limit(join: Open) -> None:
    one, other = join(limit=3), join(limit=3)
    assert one.claim([A, B]) == [A, B]
    assert other.claim([C, D]) == [C]
    assert other.claim([D]) == []
    one.close()
    assert other.claim([D]) == [D]


def test_what_a_worker_leaves_undone_is_taken_up(join: Open) -> None:
    one, other = join(), join()
    one.claim([A, B])
    one.append(scored(A))
    one.close()
    assert other.abandoned() == [B]
    assert other.abandoned() == []


def test_claims_of_a_silent_worker_are_taken_up_by_one_other(join: Open) -> None:
    dead, one, other = join(), join(silence=0.2), join(silence=0.2)
    dead.claim([A, B])
    killed(dead)
    taken: list[SkipMask] = []
    while not taken:
        taken = one.abandoned()
    assert taken == [A, B]
    assert all(other.abandoned() == [] for _ in range(3))
    one.append(scored(A))
    one.append(scored(B))
    assert join().trials() == [scored(A), scored(B)]


def test_a_slow_worker_that_beats_keeps_its_claims(join: Open) -> None:
    slow, other = join(beat=0.02), join(silence=2.0)
    slow.claim([A])
    count = slow._beats()[slow.worker]
    while slow._beats()[slow.worker] < count + 5:
        assert other.abandoned() == []


def test_nobody_takes_itself_for_dead(join: Open) -> None:
    book = join(silence=0.0, beat=60.0)
    book.claim([A])
    assert [book.abandoned() for _ in range(3)] == [[], [], []]


def test_a_worker_taken_for_dead_does_not_finish_a_mask_again(join: Open) -> None:
    slow, other = join(), join(silence=0.1)
    slow.claim([A, B])
    killed(slow)
    while not other.abandoned():
        pass
    other.append(scored(A, 2.0))
    slow.append(scored(A))
    slow.append(scored(B))  # claimed by the other by now
    other.append(scored(B, 3.0))
    assert join().trials() == [scored(A, 2.0), scored(B, 3.0)]


def test_a_worker_taken_for_dead_finishes_what_nobody_took(join: Open) -> None:
    slow, other = join(), join()
    slow.claim([A])
    other._fail(slow._claims[A])
    slow.append(scored(A))
    assert other.trials() == [scored(A)]


def test_each_worker_is_of_another_rank(join: Open) -> None:
    assert [join().rank for _ in range(3)] == [0, 1, 2]


def test_a_count_that_stands_still_is_a_sign_of_death() -> None:
    now = 0.0
    watch = StaleWorkerDetector(seconds=10.0, clock=lambda: now)
    assert not watch.silent("one", 5)
    now = 9.0
    assert not watch.silent("one", 5)
    now = 11.0
    assert watch.silent("one", 5)
    assert not watch.silent("one", 6)
    assert not watch.silent("other", None)
    now = 22.0
    assert watch.silent("other", None)


# --- processes


@pytest.mark.slow
def test_processes_finish_every_mask_once_and_one_of_them_is_killed(path: Path) -> None:
    doomed = start(path, 60.0)
    assert doomed.stdout is not None
    mask = doomed.stdout.readline().removeprefix("at ").strip()
    others = [start(path, 0.02) for _ in range(2)]
    os.kill(doomed.pid, signal.SIGKILL)
    for other in others:
        _, errors = other.communicate(timeout=120)
        assert other.returncode == 0, errors
    found = Journal(path, LAYERS, FACTS, resume=True).trials()
    assert sorted(str(t.mask) for t in found) == sorted(map(str, MASKS))
    (again,) = [t for t in found if str(t.mask) == mask]
    assert f":{doomed.pid}:" not in (again.worker or "")


def start(path: Path, seconds: float) -> subprocess.Popen[str]:
    script = Path(shared_worker.__file__)
    return subprocess.Popen(
        [sys.executable, str(script), str(path), STUDY_NAME, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


# --- a journal file that a killed worker left


def test_a_line_that_a_killed_worker_left_unfinished_is_cut_off(path: Path, join: Open) -> None:
    one, other = join(), join()
    one.append(scored(A))
    with path.open("a") as file:
        file.write('{"op_code":4,"worker_id":"x","stu')
    other.append(scored(B))
    assert one.news() == [scored(B)]
    assert join().trials() == [scored(A), scored(B)]


def test_the_lock_of_a_killed_worker_is_broken(
    path: Path, join: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent.parent)
    relative = path.relative_to(path.parent.parent)
    monkeypatch.setattr(backends, "LOCK_SECONDS", 1)
    join().append(scored(A))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna finds a second short
        backends.open_file(relative)._backend._lock.acquire()  # type: ignore[attr-defined]
        book = SharedStorage(str(relative), STUDY_NAME, LAYERS, FACTS)
    book.append(scored(B))
    book.close()
    assert book.trials() == [scored(A), scored(B)]


def test_a_file_that_is_no_journal_is_refused_and_left_alone(path: Path, join: Open) -> None:
    path.write_text("notes\n")
    with pytest.raises(SearchError, match="not a search journal"):
        join()
    assert path.read_text() == "notes\n"


def test_a_folder_that_does_not_exist_is_told_of(path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        SharedStorage(str(path.parent / "none" / "journal"), STUDY_NAME, LAYERS, FACTS)


# --- storages


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sqlite:///trials.db", "SQLite cannot be shared"),
        ("sqlite+pysqlite:////tmp/trials.db", "SQLite cannot be shared"),
        ("oracle://u:secret@host/db", "'oracle'"),
        ("postgresql://u:secret@host:port/db", "cannot read the URL"),
        ("://u:secret@host", "cannot read the URL"),
        ("", "empty"),
    ],
)
def test_what_cannot_be_shared_is_refused_without_a_word_of_the_password(
    spec: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        backends.open_storage(spec)
    assert "secret" not in f"{refused.value} {refused.value.hint}"
    assert "journal file" in (refused.value.hint or "") or "postgresql://" in str(
        refused.value.hint
    )


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(
        SearchError, match=r"cannot reach postgresql://127\.0\.0\.1:9/x"
    ) as refused:
        backends.open_storage("postgresql://u:secret@127.0.0.1:9/x")
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_missing_driver_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="pg8000 is not installed") as refused:
        backends.open_storage("postgresql+pg8000://u:secret@127.0.0.1:9/x")
    assert refused.value.hint == "pip install 'skipopt[storage]'"


# --- names


def test_unlike_facts_are_unlike_studies() -> None:
    facts = {"model": "a", "device": "gpu", "threads": 2}
    names = {study_key("night", facts), study_key("day", facts)}
    names |= {study_key("night", {**facts, key: "other"}) for key in facts}
    assert len(names) == 5
    assert study_key("night", dict(reversed(facts.items()))) in names


def test_who_joins_is_told_what_is_there_and_what_is_kept_apart(path: Path) -> None:
    sharing = DistributedConfig(storage=str(path), study="night")
    ours, theirs = {**FACTS, "device": "a"}, {**FACTS, "device": "b"}
    studies = [SharedStudy(str(path), study_key("night", f), LAYERS, f) for f in (ours, theirs)]
    with closing(studies[0].open()):
        assert join_message(sharing, studies[0], 0).endswith("shared.journal: 0 trials so far")
    with closing(studies[1].open()) as book:
        book.append(scored(A))
        line = join_message(sharing, studies[1], 1)
    assert "1 trials so far; 1 more of that name, unlike in device: kept apart" in line
    with closing(studies[0].open()) as book:
        assert book.trials() == []


@pytest.mark.parametrize("name", ["", "  ", "x" * 201])
def test_a_name_that_cannot_be_kept_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="characters"):
        study_key(name, {})
