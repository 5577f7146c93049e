"""Prices are those of an engine whose costs are made up, on a clock moved by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import tiny_llama, tiny_target
from torch import Tensor

from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime import prices
from skipopt.runtime.prices import measure_prices
from skipopt.skipping import skipping

DEPTH = 3
FIXED, ATTENTION, MLP, LAYER, MORE = 5.0, 3.0, 2.0, 0.5, 0.75
LONGEST = 4
PLAIN = FIXED + DEPTH * (ATTENTION + MLP + LAYER)


class Bench:
    """Clock and engine in one: a step takes what its sublayers cost.

    The first steps take ten times as long; later, one step in `stumble` does.
    """

    def __init__(self, target: Target, stumble: int = 10**9) -> None:
        self.target = target
        self.now = 0.0
        self.position = 0
        self.steps = 0
        self.stumble = stumble
        self.longest = 0

    def clock(self) -> float:
        return self.now

    def prefill(self, tokens: Sequence[int]) -> None:
        self.position = len(tokens)

    def rewind(self, position: int) -> None:
        self.position = position

    def step(self, tokens: Sequence[int]) -> Tensor:
        self.steps += 1
        self.position += len(tokens)
        self.longest = max(self.longest, self.position)
        slow = self.steps <= 4 + LONGEST or self.steps % self.stumble == 0
        self.now += (10 if slow else 1) * (self._cost() + MORE * (len(tokens) - 1))
        return torch.zeros(len(tokens), 5)

    def _cost(self) -> float:
        cost = FIXED
        for layer in self.target.layers:
            if not _replaced(layer.whole.module):
                cost += LAYER
                cost += ATTENTION * (not _replaced(layer.attention[0].module))
                cost += MLP * (not _replaced(layer.mlp[0].module))
        return cost


def _replaced(module: Any) -> bool:
    return "forward" in module.__dict__


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(DEPTH))


def measured(bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> prices.Prices:
    monkeypatch.setattr(prices, "Engine", lambda target, capacity: bench)
    return measure_prices(bench.target, [1, 2, 3], LONGEST, seconds, bench.clock)


@pytest.mark.parametrize("stumble", [10**9, 17])
def test_additive_costs_are_found_exactly(
    target: Target, monkeypatch: pytest.MonkeyPatch, stumble: int
) -> None:
    """Slow first steps, and a slow one now and then, change nothing: medians."""
    found = measured(Bench(target, stumble), monkeypatch)
    assert found.fixed == pytest.approx(FIXED)
    assert found.attention == pytest.approx(ATTENTION)
    assert found.mlp == pytest.approx(MLP)
    assert found.layer == pytest.approx(LAYER)
    assert found.verify == pytest.approx([PLAIN + MORE * n for n in range(LONGEST)])
    assert found.plain == pytest.approx(PLAIN)


def test_predicted_draft_step_is_what_the_step_costs(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(target)
    found = measured(bench, monkeypatch)
    for mask in (SkipMask.of(3, [0], [2]), SkipMask.of(3, [1, 2], [1]), SkipMask.empty(3)):
        before = bench.now
        with skipping(target.layers, mask):
            bench.step([1])
        assert found.draft_step(mask) == pytest.approx(bench.now - before)


def test_every_step_begins_at_the_same_context(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(target)
    measured(bench, monkeypatch)
    assert bench.position == 3
    assert bench.longest == 3 + LONGEST


def test_measuring_goes_on_for_the_time_given(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = Bench(target), Bench(target)
    measured(short, monkeypatch)
    measured(long, monkeypatch, seconds=5 * short.now)
    assert short.steps == 6 * (4 + LONGEST)
    assert long.now >= 5 * short.now
    assert long.steps > 2 * short.steps


def test_real_measurements_are_positive(target: Target) -> None:
    found = measure_prices(target, [1, 2, 3], 2, seconds=0.0)
    assert found.fixed > 0
    assert len(found.verify) == 2
    assert min(found.verify) > 0
    assert all("forward" not in module.__dict__ for module in target.model.modules())
