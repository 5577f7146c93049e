"""Progress events of a search."""

from __future__ import annotations

from support.timing_fakes import FakeClock

from skipopt.masks import SkipMask
from skipopt.storage.base import Trial
from skipopt.study.progress import Progress, ProgressReporter

GOOD, BAD = Trial(SkipMask.of(2, [1]), 1.2), Trial(SkipMask.of(2, [0]), 0.9)


def test_trials_and_phases_are_reported() -> None:
    clock, seen = FakeClock(), list[Progress]()
    progress = ProgressReporter(10.0, seen.append, clock)
    progress.enter("search")
    clock.now += 4.0
    for trial in (GOOD, BAD):
        progress.add_trial(trial)
    assert seen == [
        Progress("search", 0, None, None, 0.0, 10.0),
        Progress("search", 1, 1.2, GOOD.mask, 4.0, 6.0),
        Progress("search", 2, 1.2, GOOD.mask, 4.0, 6.0),
    ]
    assert (progress.trials, progress.best) == (2, GOOD)


def test_shares_of_the_time_limit_pass() -> None:
    clock = FakeClock()
    progress = ProgressReporter(10.0, clock=clock)
    clock.now += 5.0
    assert progress.is_past(0.4)
    assert not progress.is_past(0.6)
    assert not progress.is_past()
    clock.now += 6.0
    assert progress.is_past()


def test_without_a_time_limit_no_time_is_left_or_past() -> None:
    clock, seen = FakeClock(), list[Progress]()
    progress = ProgressReporter(None, seen.append, clock)
    clock.now += 1000.0
    progress.report()
    assert not progress.is_past()
    assert seen[0].seconds_left is None
