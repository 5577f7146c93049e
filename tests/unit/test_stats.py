"""Bootstrap intervals and significance tests of paired times."""

from __future__ import annotations

import math
from random import Random

import pytest

from skipopt.stats import (
    Estimate,
    Interval,
    ratio_interval,
    significantly_worse,
    trimmed_mean,
)


def logs(*ratios: float) -> list[float]:
    return [math.log(ratio) for ratio in ratios]


def test_the_median_of_each_prompts_median() -> None:
    ratios = [logs(1.0, 1.2, 9.0), logs(1.5, 1.5), logs(0.1, 1.1, 1.3)]
    assert ratio_interval(ratios).median == pytest.approx(1.2)


def test_equal_ratios_have_an_interval_of_zero_width() -> None:
    found = ratio_interval([logs(1.3)] * 8)
    assert (found.low, found.median, found.high) == pytest.approx((1.3, 1.3, 1.3))


@pytest.mark.parametrize("prompts", [1, 2])
def test_the_interval_of_few_prompts_covers_every_repeat(prompts: int) -> None:
    found = ratio_interval([logs(1.0, 1.1, 1.4)] * prompts)
    assert (found.low, found.high) == pytest.approx((1.0, 1.4))


def test_an_outlier_widens_the_interval_on_its_side_only() -> None:
    found = ratio_interval([logs(1.2)] * 5 + [logs(3.0)] * 3)
    assert found.low == pytest.approx(1.2)
    assert found.high == pytest.approx(3.0)
    assert found.median == pytest.approx(1.2)


def test_intervals_cover_the_truth_at_about_their_nominal_rate() -> None:
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


@pytest.mark.parametrize(
    ("threshold", "side"), [(1.1, "above"), (1.0, "above"), (1.2, "straddles"), (1.31, "below")]
)
def test_side_of_a_threshold(threshold: float, side: str) -> None:
    assert Interval(1.2, 1.1, 1.3).side_of(threshold) == side


def test_a_clear_loss_is_significant() -> None:
    assert significantly_worse([1.0, 1.1, 0.9, 1.0], [2.0, 2.2, 2.1, 2.0], alpha=0.02)


def test_pairs_count_and_not_means() -> None:
    prompts = [0.1, 5.0, 20.0, 90.0]
    assert significantly_worse([p - 0.1 for p in prompts], prompts, alpha=0.02)
    assert not significantly_worse(prompts[::-1], [p + 0.1 for p in prompts], alpha=0.02)


def test_a_higher_mean_is_never_worse() -> None:
    assert not significantly_worse([1.0, 9.0], [1.1, 1.1], alpha=1.0)
    assert not significantly_worse([1.0, 1.0], [1.0, 1.0], alpha=1.0)


def test_one_pair_is_no_evidence() -> None:
    assert not significantly_worse([0.0], [100.0], alpha=0.5)


def test_a_margin_requires_a_larger_loss() -> None:
    gains = [0.011, 0.009, 0.010, 0.012]
    assert not significantly_worse(gains, 0.0, alpha=0.02)
    assert significantly_worse(gains, 0.0, alpha=0.02, margin=0.02)


def test_equal_losses_are_significant_without_warnings(recwarn: pytest.WarningsRecorder) -> None:
    assert significantly_worse([0.1, 1.1, 2.1], [0.2, 1.2, 2.2], alpha=0.01)
    assert not recwarn.list


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        significantly_worse([1.0, 2.0], [1.0], alpha=0.05)


def test_false_positives_occur_at_about_the_rate_alpha() -> None:
    rng = Random(3)
    worse = sum(
        significantly_worse([rng.gauss(0, 1) for _ in range(6)], 0.0, alpha=0.1)
        for _ in range(400)
    )
    assert 20 <= worse <= 60


# --- means with errors


def test_outliers_do_not_move_a_trimmed_mean() -> None:
    values = [0.9, 1.0, 1.1, 1.0, 0.95, 1.05, 1.0, 1.0]
    assert trimmed_mean([*values, 50.0, -20.0]).mean == pytest.approx(1.0, abs=0.02)


def test_bounds_of_a_trimmed_mean_cover_the_truth_at_their_rate() -> None:
    rng = Random(7)
    beyond = 0
    for _ in range(400):
        low, high = trimmed_mean([rng.gauss(0.3, 0.2) for _ in range(16)]).bounds(0.05)
        beyond += not low <= 0.3 <= high
    assert 20 <= beyond <= 62


def test_one_value_has_no_bounds() -> None:
    assert trimmed_mean([1.0]).bounds(0.05) == (-math.inf, math.inf)
    assert trimmed_mean([1.0]).plus_error(0.1).bounds(0.05) == (-math.inf, math.inf)


def test_a_known_error_widens_bounds_and_adds_degrees() -> None:
    estimate = trimmed_mean([1.0, 1.1, 1.2])
    wider = estimate.plus_error(0.2)
    assert wider.error == pytest.approx(math.hypot(estimate.error, 0.2))
    assert wider.degrees > estimate.degrees
    assert Estimate(1.0, 0.0, 3).plus_error(0.1).bounds(0.025) == pytest.approx(
        (1 - 0.196, 1 + 0.196), abs=0.001
    )


def test_a_mean_needs_a_value() -> None:
    with pytest.raises(ValueError, match="at least one"):
        trimmed_mean([])
