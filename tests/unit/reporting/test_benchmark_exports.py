"""Files for github-action-benchmark and for Bencher."""

from __future__ import annotations

import json

from support.check_results import check_result

from skipopt.reporting.benchmark_exports import bencher_metrics, github_benchmark

UNMEASURED = check_result("inconclusive", end_to_end=None, speedup=None, first_text=None)


def test_github_action_benchmark_gets_name_unit_value_and_range() -> None:
    rows = json.loads(github_benchmark(check_result()))
    first = rows[0]
    assert first["name"] == "skipopt check some-model: end to end"
    assert (first["unit"], first["value"], first["range"]) == ("×", 1.4, "1.300–1.500")
    assert all({"name", "unit", "value"} <= row.keys() for row in rows)
    assert len({row["name"] for row in rows}) == len(rows)


def test_bencher_gets_a_value_with_its_bounds_by_measure() -> None:
    [(title, measures)] = json.loads(bencher_metrics(check_result())).items()
    assert title == "skipopt check some-model"
    assert measures["end-to-end"] == {"value": 1.4, "lower_value": 1.3, "upper_value": 1.5}
    assert measures["acceptance-rate"] == {"value": 0.75}


def test_what_was_not_measured_is_left_out() -> None:
    assert [row["unit"] for row in json.loads(github_benchmark(UNMEASURED))] == ["share"]
