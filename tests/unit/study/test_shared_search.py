"""Workers of one study divide the masks among them, also when one of them dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.distributed_worker import IDENTITY

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.registry import make_sampler
from skipopt.storage.base import Trial
from skipopt.storage.journal import open_journal
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyLocation
from skipopt.study.config import SearchConfig
from skipopt.study.optimize import TrialLoop

DEPTH = 3
SPACE = MaskSpace(DEPTH)
MASKS = 2 ** (2 * DEPTH)
BATCH = SearchConfig().batch_size


def slow_scores(masks: Sequence[SkipMask]) -> list[Trial]:
    """The value of a mask is its number of skipped sublayers."""
    time.sleep(0.02)
    return [Trial(mask, float(len(mask.skipped))) for mask in masks]


@pytest.fixture
def location(tmp_path: Path) -> StudyLocation:
    identity = replace(IDENTITY, layers=DEPTH)
    return StudyLocation(str(tmp_path / "shared.journal"), "night", identity, shared=True)


def search(location: StudyLocation, claim_seconds: float = 60.0, trials: int = MASKS) -> set[str]:
    """Run a worker to its end and return the masks it knows."""
    config = SearchConfig(trials=trials, claim_seconds=claim_seconds)
    sampler = make_sampler("exhaustive", SPACE, 0)
    with closing(OptunaStorage(location)) as storage:
        loop = TrialLoop(config, sampler, slow_scores, storage, len(SPACE.free))
        loop.load_trials()
        loop.run(lambda: False)
        return {str(trial.mask) for trial in loop.trials}


def first_proposals() -> list[SkipMask]:
    return make_sampler("exhaustive", SPACE, 0).ask(BATCH)


def rows(location: StudyLocation) -> int:
    return len(open_journal(Path(location.storage)).get_all_trials(0))


def test_workers_with_the_same_proposals_score_few_masks_twice(location: StudyLocation) -> None:
    workers = [threading.Thread(target=search, args=(location,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert MASKS <= rows(location) <= MASKS + 4 * BATCH  # twice as many as all, if unaware


def test_masks_finished_while_a_worker_proposes_are_not_scored_again(
    location: StudyLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(OptunaStorage(location)) as slow, closing(OptunaStorage(location)) as fast:

        def finish_the_same() -> None:
            for trial in slow_scores(fast.claim(first_proposals())):
                fast.append(trial)
            fast.claim([])

        claim = slow.claim
        monkeypatch.setattr(slow, "claim", lambda masks: (finish_the_same(), claim(masks))[1])
        loop = TrialLoop(
            SearchConfig(trials=2 * BATCH),
            make_sampler("exhaustive", SPACE, 0),
            slow_scores,
            slow,
            len(SPACE.free),
        )
        loop.run(lambda: False)
    assert rows(location) == len({trial.mask for trial in loop.trials}) == 2 * BATCH


def test_of_two_workers_that_announce_at_once_one_keeps_the_masks(
    location: StudyLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(OptunaStorage(location)) as first, closing(OptunaStorage(location)) as second:
        announced = first_proposals()
        announce_first, announce_second = first._set_scoring, second._set_scoring
        kept: list[SkipMask] = []

        def both(masks: Sequence[SkipMask], began: float) -> None:
            """Called when `first` has seen no masks of others; nor has `second` at its begin."""
            monkeypatch.setattr(first, "_set_scoring", announce_first)
            monkeypatch.setattr(
                second,
                "_set_scoring",
                lambda *claim: (
                    monkeypatch.setattr(second, "_set_scoring", announce_second),
                    announce_second(*claim),
                    announce_first(masks, began),
                ),
            )
            kept.extend(second.claim(announced))

        monkeypatch.setattr(first, "_set_scoring", both)
        kept.extend(first.claim(announced))
    assert kept == announced


@pytest.mark.parametrize("claim_seconds", [0.0, 60.0])
def test_masks_announced_by_a_killed_worker_are_scored_by_another(
    location: StudyLocation, claim_seconds: float
) -> None:
    killed = OptunaStorage(location)
    announced = first_proposals()
    assert killed.claim(announced) == announced
    assert len(search(location, claim_seconds)) == MASKS
    assert rows(location) == MASKS


def test_masks_of_another_worker_come_after_all_others(location: StudyLocation) -> None:
    other = OptunaStorage(location)
    announced = first_proposals()
    other.claim(announced)
    found = search(location, trials=MASKS - BATCH)
    assert found.isdisjoint(map(str, announced))
