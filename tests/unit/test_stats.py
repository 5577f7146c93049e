from __future__ import annotations

import math
from random import Random

import pytest

from skipopt.stats import Interval, ratio_interval


def logs(*ratios: float) -> list[float]:
    return [math.log(ratio) for ratio in ratios]


def test_the_median_of_each_prompts_median() -> None:
    ratios = [logs(1.0, 1.2, 9.0), logs(1.5, 1.5), logs(0.1, 1.1, 1.3)]
    assert ratio_interval(ratios).median == pytest.approx(1.2)


def test_equal_ratios_leave_no_doubt() -> None:
    found = ratio_interval([logs(1.3)] * 8)
    assert (found.low, found.median, found.high) == pytest.approx((1.3, 1.3, 1.3))


@pytest.mark.parametrize("prompts", [1, 2])
def test_few_prompts_span_every_repeat(prompts: int) -> None:
    found = ratio_interval([logs(1.0, 1.1, 1.4)] * prompts)
    assert (found.low, found.high) == pytest.approx((1.0, 1.4))


def test_an_outlier_widens_the_interval_on_its_side_only() -> None:
    found = ratio_interval([logs(1.2)] * 5 + [logs(3.0)] * 3)
    assert found.low == pytest.approx(1.2)
    assert found.high == pytest.approx(3.0)
    assert found.median == pytest.approx(1.2)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = Random(5)
    hits = 0
    for _ in range(100):
        found = ratio_interval([[rng.gauss(math.log(1.4), 0.2)] for _ in range(20)])
        hits += found.low <= 1.4 <= found.high
    assert 88 <= hits <= 99


def test_more_prompts_narrow_the_interval() -> None:
    rng = Random(6)
    few, many = (
        ratio_interval([[rng.gauss(0.3, 0.2)] for _ in range(count)]) for count in (8, 200)
    )
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_same_ratios_give_the_same_interval() -> None:
    ratios = [[Random(i).gauss(0.3, 0.2)] for i in range(9)]
    assert ratio_interval(ratios) == ratio_interval(ratios)


def test_no_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ratio_interval([[], []])


def test_json() -> None:
    assert Interval(1.2, 1.1, 1.3).to_json() == {"median": 1.2, "low": 1.1, "high": 1.3}
