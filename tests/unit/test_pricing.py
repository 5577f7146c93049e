"""Prices are those of an engine whose costs are made up, on a clock moved by hand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
import torch
from tiny import tiny_llama, tiny_target
from torch import Tensor

from skipopt import pricing
from skipopt.errors import ModelError
from skipopt.levers import Levers
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.pricing import measure_prices
from skipopt.runtime.prices import Prices
from skipopt.skipping import skipping

DEPTH = 3
FIXED, ATTENTION, MLP, LAYER, MORE = 5.0, 3.0, 2.0, 0.5, 0.75
ROUND, BEGINNING = 0.25, 0.125  # what a round and what a draft cost once
LONGEST = 4
WHOLE = FIXED + DEPTH * (ATTENTION + MLP + LAYER)
CONTEXT = [1, 2, 3]


class Bench:
    """Clock and engine in one: a step takes what its sublayers cost.

    The first rounds take ten times as long; later, one step in `stumble` does. A first step after
    a longer one costs a little more.
    """

    keeps_hidden = False
    hidden = None

    def __init__(self, target: Target, stumble: int = 10**9) -> None:
        self.target = target
        self.now = 0.0
        self.position = 0
        self.steps = 0
        self.stumble = stumble
        self.after_verify = True
        self.prefills = 0

    def clock(self) -> float:
        return self.now

    def prefill(self, tokens: Sequence[int]) -> None:
        self.prefills += 1
        self.position = len(tokens)

    def rewind(self, position: int) -> None:
        self.position = position

    def keep(self, start: int, kept: Sequence[int]) -> None:
        self.position = start + len(kept)

    def under(self, mask: SkipMask, levers: Levers) -> AbstractContextManager[object]:
        return skipping(self.target.layers, mask)

    def step(self, tokens: Sequence[int]) -> Tensor:
        self.steps += 1
        self.position += len(tokens)
        slow = self.prefills <= 1 or self.steps % self.stumble == 0
        cost, whole = self._cost()
        cost += MORE * (len(tokens) - 1)
        drafting = not whole or self._in_draft()
        cost += (BEGINNING if self.after_verify else 0.0) if drafting else ROUND
        self.after_verify = not drafting
        self.now += (10 if slow else 1) * cost
        return torch.eye(5)[torch.zeros(len(tokens), dtype=torch.long)]

    def guess(self, tokens: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        logits = self.step([int(token) for token in tokens])
        return logits.argmax(-1), logits.amax(-1)

    def _in_draft(self) -> bool:
        """A draft that keeps everything looks like a plain step; its caller does not."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_name != "_chain":
            frame = frame.f_back
        return frame is not None

    def _cost(self) -> tuple[float, bool]:
        cost, whole = FIXED, True
        for layer in self.target.layers:
            attention, mlp = layer.attention[0].module, layer.mlp[0].module
            whole &= not any(map(_replaced, (layer.whole.module, attention, mlp)))
            if not _replaced(layer.whole.module):
                cost += LAYER
                cost += ATTENTION * (not _replaced(attention))
                cost += MLP * (not _replaced(mlp))
        return cost, whole


def _replaced(module: Any) -> bool:
    return "forward" in module.__dict__


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(DEPTH))


def measured(bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> Prices:
    monkeypatch.setattr(pricing, "Engine", lambda target, capacity: bench)
    return measure_prices(bench.target, CONTEXT, LONGEST, seconds, bench.clock)


@pytest.mark.parametrize("stumble", [10**9, 41])
def test_costs_are_found(target: Target, monkeypatch: pytest.MonkeyPatch, stumble: int) -> None:
    """Slow first rounds, and a slow step now and then, change little: medians."""
    found = measured(Bench(target, stumble), monkeypatch, seconds=20_000)
    exact = 1e-6 if stumble > 1000 else 0.05
    assert found.fixed == pytest.approx(FIXED, rel=exact)
    assert found.attention == pytest.approx(ATTENTION, rel=exact)
    assert found.mlp == pytest.approx(MLP, rel=exact)
    assert found.layer == pytest.approx(LAYER, abs=0.1 if stumble < 1000 else 1e-6)
    assert found.plain == pytest.approx(WHOLE + ROUND, rel=exact)
    # What a draft costs once belongs to its round.
    drafted = [WHOLE + ROUND + BEGINNING + MORE * n for n in range(1, LONGEST)]
    assert found.verify[1:] == pytest.approx(drafted, rel=exact)
    assert found.sureness == pytest.approx(0, abs=0.01)
    assert found.context == len(CONTEXT)


def test_predicted_draft_step_is_what_the_step_costs(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(target)
    found = measured(bench, monkeypatch)
    for mask in (SkipMask.of(3, [0], [2]), SkipMask.of(3, [1, 2], [1])):
        bench.after_verify = False
        before = bench.now
        with skipping(target.layers, mask):
            bench.step([1])
        assert found.draft_step(mask) == pytest.approx(bench.now - before)


def test_measuring_goes_on_for_the_time_given(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = Bench(target), Bench(target)
    measured(short, monkeypatch)
    measured(long, monkeypatch, seconds=3 * short.now)
    assert 2 < long.now / short.now < 5
    assert short.prefills == pricing.FEWEST_CYCLES


def test_verification_of_more_tokens_is_never_cheaper(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However noisy the few samples are."""
    found = measured(Bench(target, stumble=7), monkeypatch)
    assert list(found.verify[1:]) == sorted(found.verify[1:])


def test_real_rounds_have_prices(target: Target) -> None:
    found = measure_prices(target, [5, 6, 7, 8], LONGEST, seconds=0.0)
    assert len(found.verify) == LONGEST
    assert min(found.verify) > 0
    assert found.fixed > 0
    assert found.spread >= 0


def test_context_too_short_to_measure_in_is_told(target: Target) -> None:
    small = replace(target, context_limit=6)
    with pytest.raises(ModelError, match="a context of 6 tokens is too short"):
        measure_prices(small, [1, 2, 3], 9, seconds=0.0)
