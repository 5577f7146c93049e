"""Simulated runs of the gate: real noise, planted changes, and the table."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import fmean, stdev

import pytest

from benchmarks.gate import (
    COMMON,
    MIDDLE,
    SOURCES,
    TOLERANCES,
    VERDICTS,
    Plan,
    Scenario,
    Source,
    page,
    rates,
    read_times,
    simulate_baseline,
)

ROOT = Path(__file__).parents[3]
PLAN = Plan(runs=24, baseline_blocks=2, blocks=3)
QUIET = Scenario("quiet", "residuals alone", 0.0, bursts=0.0, drift=0.0)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.chdir(ROOT)
    return Source.load("check", "layer-skip")


def test_every_source_has_repeats_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for file, method in SOURCES:
        found = Source.load(file, method)
        assert len(found.residuals) >= 2
        assert len(found.means) >= 16


def test_simulated_runs_have_the_real_means_and_noise(source: Source) -> None:
    times = read_times(ROOT / "results" / "check.json", "layer-skip")
    real = [[pair.plain - pair.method for pair in repeats.values()] for repeats in times.values()]
    run = simulate_baseline(source, QUIET, 20, Random(0))
    logs = [[pair.log_speedup for pair in repeats.values()] for repeats in run.values()]
    assert fmean(map(fmean, logs)) == pytest.approx(fmean(map(fmean, real)), abs=0.01)
    noise = fmean(map(stdev, logs))
    assert noise == pytest.approx(fmean(map(stdev, real)), rel=0.3)


def test_planted_losses_fail_and_unchanged_runs_pass(source: Source) -> None:
    for change, verdict in ((0.0, "pass"), (-0.3, "fail")):
        found = {row["tolerance"]: row for row in rates([source], COMMON, change, PLAN, "texts")}
        assert set(found) == set(TOLERANCES)
        assert found[MIDDLE][verdict] > 0.8
        assert sum(found[MIDDLE][each] for each in VERDICTS) == pytest.approx(1)


def test_the_page_has_a_line_for_each_row(source: Source) -> None:
    rows = rates([source], COMMON, -0.1, Plan(2, 1, 1), "texts")
    record = {
        "command": "python -m benchmarks.gate",
        "environment": {"device": "a machine"},
        "plan": {"runs": 2, "baseline_blocks": 1, "blocks": 1, "medians": 2},
        "constants": {"ERROR_RATE": 0.05},
        "tables": {
            "scenarios": rows,
            "medians": rows,
            "sources": [{"source": "check", **row} for row in rows],
            "one_block": rows,
        },
    }
    text = "\n".join(page(record))
    assert text.count("| -10 % |") == 4 * len(rows)
    assert "a machine" in text
