"""The plan of a search's time, on a clock set by hand."""

from __future__ import annotations

from math import inf

import pytest
from support.timing_fakes import FakeClock

from skipopt.errors import SearchError
from skipopt.prompts import Prompt
from skipopt.scoring import ScoredText
from skipopt.study.calibration import in_turns
from skipopt.study.config import SearchConfig
from skipopt.study.needs import Estimator
from skipopt.study.rescoring import TimeToScore
from skipopt.study.time_plan import (
    PHASES,
    PLANNED_SHARE,
    Deadline,
    Need,
    Pace,
    Phase,
    TimePlan,
    divide,
)

PACE = Pace(token=0.02, prompt_token=0.003)
NEEDS: dict[Phase, Need] = {
    "calibrate": Need(2.0, 15.0),
    "costs": Need(3.0, 12.0),
    "search": Need(0.0, inf, 2.0),
    "validate": Need(5.0, 60.0, 3.0),
}


def planned(limit: float | None, longest: float = inf) -> tuple[TimePlan, FakeClock]:
    clock = FakeClock()
    plan = TimePlan(limit, longest, clock)
    clock.now += 1.0  # the tokens that were timed
    plan.set_needs(PACE, NEEDS)
    return plan, clock


@pytest.mark.parametrize("limit", [12.0, 30.0, 100.0, 300.0])
def test_phases_that_use_all_their_time_end_at_the_limit(limit: float) -> None:
    plan, clock = planned(limit)
    for phase in PHASES:
        deadline = plan.begin(phase)
        assert deadline.left >= NEEDS[phase].least - 1e-6
        clock.now = deadline.at
    assert plan.seconds == pytest.approx(PLANNED_SHARE * limit)


def test_what_a_phase_leaves_goes_to_the_next() -> None:
    plan, clock = planned(60.0)
    planned_for_costs = divide(plan.end.left, NEEDS)["costs"]
    clock.now += 0.5  # calibration took no longer
    assert plan.begin("costs").left > planned_for_costs
    plan.begin("search")
    assert plan.begin("validate").at == pytest.approx(plan.end.at)


def test_a_phase_that_runs_long_leaves_the_least_to_the_others() -> None:
    plan, clock = planned(30.0)
    plan.begin("costs")
    clock.now = plan.end.at - 6.0  # far too long
    search = plan.begin("search")
    assert search.left < 1.0
    clock.now += 2.0
    assert plan.begin("validate").at == pytest.approx(plan.end.at), "no later than the limit"
    clock.now += 10.0
    assert plan.begin("validate").left <= 0
    assert plan.seconds_left == 0.0


def test_a_limit_below_the_least_is_refused_with_the_least_as_hint() -> None:
    with pytest.raises(SearchError, match="takes about 12 s at least here") as refused:
        planned(10.0)
    assert refused.value.hint == "--timeout 14"
    planned(14.0)


def test_without_a_limit_the_needs_decide_up_to_the_longest() -> None:
    plan, _ = planned(None, longest=160.0)
    assert plan.end.left == pytest.approx(PLANNED_SHARE * 160.0 - 1.0)
    clock = FakeClock()
    small = TimePlan(None, 160.0, clock)
    small.set_needs(PACE, {**NEEDS, "search": Need(0.0, 10.0)})
    assert small.end.left == pytest.approx(15.0 + 12.0 + 10.0 + 60.0)
    assert str(small) == "about 1 min 40 s: 15 s texts, 12 s costs, 10 s trials, 60 s validation"


def test_a_slow_model_gets_its_least_without_a_limit() -> None:
    plan, _ = planned(None, longest=5.0)
    assert plan.end.left >= 10.0


def test_nothing_is_limited_where_trials_are_counted() -> None:
    plan = TimePlan(None)
    assert not plan.is_limited
    assert not plan.begin("search").is_finite
    assert plan.seconds_left is None
    assert str(plan) == "no time limit"


def test_the_time_left_shrinks_where_later_phases_need_less() -> None:
    plan, clock = planned(300.0)
    plan.begin("validate")
    assert plan.seconds_left == pytest.approx(60.0)
    clock.now += 20.0
    assert plan.seconds_left == pytest.approx(40.0)


def test_least_needs_beyond_the_time_are_cut_in_proportion() -> None:
    assert divide(5.0, NEEDS) == {"calibrate": 1.0, "costs": 1.5, "search": 0.0, "validate": 2.5}
    assert sum(divide(50.0, NEEDS).values()) == pytest.approx(50.0)


def test_parts_of_a_deadline() -> None:
    clock = FakeClock()
    deadline = Deadline(clock.now + 10.0, clock)
    assert deadline.part(0.3).left == pytest.approx(3.0)
    assert deadline.fits(10.0)
    assert not deadline.fits(10.1)
    clock.now += 11.0
    assert deadline.part(0.3).left == 0.0
    assert not Deadline().part(0.5).is_finite


TEXTS = [ScoredText(tuple(range(30)), 10) for _ in range(6)]  # 20 rows for a mask


@pytest.mark.parametrize(
    ("seconds", "masks", "texts"), [(0.1, 0, 0), (3.1, 1, 6), (5.5, 3, 6), (90.0, 9, 6)]
)
def test_what_fits_into_the_time_for_scoring(seconds: float, masks: int, texts: int) -> None:
    """A row takes 0.01 s: the first mask 3.0 s on all six texts, and each further mask 1.2 s."""
    clock = FakeClock()
    time = TimeToScore(Deadline(clock.now + seconds, clock), Pace(1.0, 0.01))
    assert time.fitting_masks(TEXTS, 9) == masks
    assert time.fitting_texts(TEXTS, 1) == texts


def test_a_measured_pace_replaces_the_estimate() -> None:
    pace = Pace(1.0, 0.01)
    pace.measured(8.4, TEXTS, 1)
    assert pace.scoring(TEXTS) == pytest.approx(8.4)


@pytest.mark.parametrize("space", [("skip",), ("int8",), ("skip", "int8", "vocab")])
def test_needs_grow_with_the_model_and_never_ask_for_less_than_the_least(
    space: tuple[str, ...],
) -> None:
    config = SearchConfig(search_space=space)
    slow = Pace(10 * PACE.token, 10 * PACE.prompt_token)
    fast_needs, slow_needs = (
        Estimator(config, pace, [100] * 16, [100] * 16, 60).needs() for pace in (PACE, slow)
    )
    for phase, need in fast_needs.items():
        assert 0 <= need.least <= need.most
        assert slow_needs[phase].least == pytest.approx(10 * need.least)
    assert (fast_needs["search"].most > 0) == ("skip" in space)
    assert (fast_needs["search"].least > 0) == (space == ("skip",))


def test_categories_take_turns() -> None:
    prompts = [Prompt(str(i), category=c) for i, c in enumerate(["a", "a", "a", "b", None])]
    assert [each.text for each in in_turns(prompts)] == ["0", "3", "4", "1", "2"]


def test_the_time_of_each_phase_is_kept() -> None:
    plan, clock = planned(None)
    assert plan.seconds_by_phase == pytest.approx({"calibrate": 1.0})
    clock.now += 2.0
    plan.begin("costs")
    clock.now += 3.0
    plan.begin("search")
    clock.now += 4.0
    expected = {"calibrate": 3.0, "costs": 3.0, "search": 4.0}
    assert plan.seconds_by_phase == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(plan.seconds)
