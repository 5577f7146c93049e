"""Moving averages of readings and of rounds."""

from __future__ import annotations

import pytest

from skipopt.averages import MovingAverage, StepSeconds, Throughput


def test_averages_weigh_recent_readings_more() -> None:
    average = MovingAverage(decay=0.5)
    for value in (8.0, 4.0, 2.0):
        average.add(value)
    assert average.mean == pytest.approx((0.25 * 8 + 0.5 * 4 + 2) / 1.75)


def test_average_of_equals_has_no_error_and_of_one_has_no_bound() -> None:
    average = MovingAverage()
    average.add(3.0)
    assert average.error == float("inf")
    average.add(3.0)
    average.add(3.0)
    assert average.error == pytest.approx(0.0, abs=1e-6)


def test_an_outlier_counts_as_three_times_the_mean() -> None:
    average = MovingAverage(decay=0.5)
    average.add_seconds(1.0)
    average.add_seconds(100.0)
    assert average.mean == pytest.approx((0.5 * 1 + 3) / 1.5)


def test_the_first_time_of_a_step_counts_only_while_no_lower_one_is_known() -> None:
    first, later = 28.0, 14.0
    step = StepSeconds()
    for expected, seconds in ((first, first), (later, later), (later, later)):
        step.add_seconds(seconds)
        assert step.mean == pytest.approx(expected)
    rising = StepSeconds()
    for seconds in (later, first):
        rising.add_seconds(seconds)
    assert later < rising.mean < first


def test_rate_is_tokens_by_seconds_and_gain_is_beyond_a_rate() -> None:
    rate = Throughput()
    assert not rate.known
    assert rate.per_second == 0.0
    for tokens, seconds in ((1, 0.5), (3, 1.5)):
        rate.add(tokens, seconds)
    assert rate.per_second == pytest.approx(2.0)
    assert rate.gain(2.0) == pytest.approx(0.0)
    assert rate.gain(1.0) == pytest.approx(rate.tokens.mean / 2)
