"""Progress events of a search."""

from __future__ import annotations

from support.timing_fakes import FakeClock

from skipopt.masks import SkipMask
from skipopt.storage.base import Trial
from skipopt.study.progress import Progress, ProgressReporter
from skipopt.study.time_plan import TimePlan

GOOD, BAD = Trial(SkipMask.of(2, [1]), 1.2), Trial(SkipMask.of(2, [0]), 0.9)


def test_trials_and_phases_are_reported() -> None:
    clock, seen = FakeClock(), list[Progress]()
    progress = ProgressReporter(TimePlan(10.0, clock=clock), seen.append)
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


def test_a_draft_configuration_may_be_the_best_without_being_a_trial() -> None:
    seen: list[Progress] = []
    progress = ProgressReporter(TimePlan(None), seen.append)
    progress.add_trial(BAD)
    progress.consider(GOOD)
    assert (progress.trials, progress.best) == (1, GOOD)
    assert seen[-1].best_value == GOOD.value


def test_without_a_time_limit_no_time_left_is_shown() -> None:
    clock, seen = FakeClock(), list[Progress]()
    progress = ProgressReporter(TimePlan(None, clock=clock), seen.append)
    clock.now += 1000.0
    progress.report()
    assert seen[0].seconds_left is None
