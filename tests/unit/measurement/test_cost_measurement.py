"""Measured costs equal those of a fake engine with known costs on a clock set by hand."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import pytest
from support.clocked_engine import (
    ATTENTION,
    BEGINNING,
    DEPTH,
    FIXED,
    LAYER,
    MLP,
    MORE,
    ROUND,
    WHOLE,
    Bench,
)
from support.tiny import tiny_llama, tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED
from skipopt.errors import ModelError
from skipopt.masks import SkipMask
from skipopt.measurement import cost_measurement
from skipopt.measurement.cost_measurement import measure_costs
from skipopt.models.target import Target

LONGEST = 4
CONTEXT = [1, 2, 3]


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(DEPTH))


def measured(bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> Costs:
    monkeypatch.setattr(cost_measurement, "Engine", lambda target, capacity: bench)
    return measure_costs(bench.target, CONTEXT, LONGEST, seconds, bench.clock)


@pytest.mark.parametrize("stumble", [10**9, 41])
def test_measured_costs_are_those_of_the_engine(
    target: Target, monkeypatch: pytest.MonkeyPatch, stumble: int
) -> None:
    """Medians hardly change with slow first rounds and an occasional slow step."""
    found = measured(Bench(target, stumble), monkeypatch, seconds=20_000)
    exact = 1e-6 if stumble > 1000 else 0.05
    assert found.overhead == pytest.approx(FIXED, rel=exact)
    assert found.attention == pytest.approx(ATTENTION, rel=exact)
    assert found.mlp == pytest.approx(MLP, rel=exact)
    assert found.layer_overhead == pytest.approx(LAYER, abs=0.1 if stumble < 1000 else 1e-6)
    assert found.plain == pytest.approx(WHOLE + ROUND, rel=exact)
    # What a draft costs once belongs to its round.
    drafted = [WHOLE + ROUND + BEGINNING + MORE * n for n in range(1, LONGEST)]
    assert found.verify[1:] == pytest.approx(drafted, rel=exact)
    assert found.confidence == pytest.approx(0, abs=0.01)
    assert found.context == len(CONTEXT)


def test_predicted_draft_step_is_what_the_step_costs(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(target)
    found = measured(bench, monkeypatch)
    for mask in (SkipMask.of(3, [0], [2]), SkipMask.of(3, [1, 2], [1])):
        bench.after_verify = False
        before = bench.now
        with bench.draft_mode(mask, UNCHANGED):
            bench.step([1])
        assert found.draft_step(mask) == pytest.approx(bench.now - before)


def test_measuring_lasts_for_the_given_time(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = Bench(target), Bench(target)
    measured(short, monkeypatch)
    measured(long, monkeypatch, seconds=2 * short.now)
    assert 1.5 < long.now / short.now < 3
    assert short.prefills == cost_measurement.MIN_CYCLES


def test_measuring_a_small_model_ends_after_enough_cycles(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(target)
    measured(bench, monkeypatch, seconds=1e6)
    assert bench.prefills == cost_measurement.MAX_CYCLES


def test_verification_of_more_tokens_is_never_cheaper(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with few and noisy samples."""
    found = measured(Bench(target, stumble=7), monkeypatch)
    assert list(found.verify[1:]) == sorted(found.verify[1:])


def test_verification_is_never_cheaper_than_a_plain_step(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise noise would predict speedups that are not there."""
    monkeypatch.setattr("support.clocked_engine.MORE", -WHOLE / 2)  # more tokens seem to cost less
    found = measured(Bench(target), monkeypatch)
    assert found.verify[1:] == (found.plain,) * (LONGEST - 1)


def test_real_rounds_have_costs(target: Target) -> None:
    found = measure_costs(target, [5, 6, 7, 8], LONGEST, seconds=0.0)
    assert len(found.verify) == LONGEST
    assert min(found.verify) > 0
    assert isfinite(found.overhead), "its sign is noise in so short a measurement"
    assert found.relative_iqr >= 0


def test_a_context_too_short_to_measure_in_is_an_error(target: Target) -> None:
    small = replace(target, context_limit=6)
    with pytest.raises(ModelError, match="a context of 6 tokens is too short"):
        measure_costs(small, [1, 2, 3], 9, seconds=0.0)
