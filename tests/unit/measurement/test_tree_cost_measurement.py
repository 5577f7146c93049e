"""Measured costs of trees and of longer contexts equal those of a fake engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from support.clocked_engine import ATTENTION, DEPTH, NODE, ROUND, WHOLE, Bench
from support.tiny import tiny_llama, tiny_target
from torch import Tensor

from skipopt.cost_model.costs import Costs
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.draft_config import DraftConfig
from skipopt.drafting.plain import NoDrafter
from skipopt.masks import SkipMask
from skipopt.measurement import tree_cost_measurement
from skipopt.measurement.cost_measurement import measure_costs
from skipopt.measurement.tree_cost_measurement import measure_tree_and_context_costs
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions

CONTEXT = [1, 2, 3] * 10
PLAIN = WHOLE + ROUND
COSTS = Costs(5.0, ATTENTION, 2.0, 0.5, (PLAIN, PLAIN + 1), context=len(CONTEXT))
GROWS = 0.01  # an attention, for every token
GROWN = replace(COSTS, verify=(PLAIN + len(CONTEXT) * DEPTH * GROWS, 2 * PLAIN))


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(DEPTH))  # 256 tokens of context


class Fresh(Bench):
    """The first step of every kind is slow; records the context lengths it decoded after."""

    def __init__(
        self, target: Target, stumble: int = 10**9, grows: float = 0.0, node: float = NODE
    ) -> None:
        super().__init__(target, stumble, grows, node)
        self.prefills = 1  # no text is slow from end to end
        self.lengths: list[int] = []
        self.known: set[tuple[int, int, bool]] = set()

    def prefill(self, tokens: Sequence[int]) -> None:
        super().prefill(tokens)
        self.lengths.append(len(tokens) + 1)

    def step(self, tokens: Sequence[int]) -> Tensor:
        kind = len(tokens), self.lengths[-1], self.drafting
        self.now += 0 if kind in self.known else 1000
        self.known.add(kind)
        return super().step(tokens)


def measured(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    costs: Costs = COSTS,
    nodes: Sequence[int] = (8, 32),
    seconds: float = 0.0,
) -> Costs:
    monkeypatch.setattr(tree_cost_measurement, "Engine", lambda target, capacity: bench)
    return measure_tree_and_context_costs(
        bench.target, CONTEXT, costs, nodes, seconds, bench.clock
    )


# Trees


@pytest.mark.parametrize("stumble", [10**9, 41])
def test_trees_cost_what_their_rounds_take(
    target: Target, monkeypatch: pytest.MonkeyPatch, stumble: int
) -> None:
    """Medians do not change with slow first rounds and an occasional slow step."""
    bench = Fresh(target, stumble)
    found = measured(bench, monkeypatch, nodes=[32, 4, 8, 8], seconds=2000.0)
    expected = [(n, pytest.approx(PLAIN + NODE * (n - 1), rel=1e-6)) for n in (4, 8, 32)]
    assert list(found.verify_tree) == expected
    assert set(bench.tree_rows) == {4, 8, 32}
    assert replace(found, verify_tree=()) == COSTS


def test_tree_costs_are_relative_to_interleaved_plain_rounds(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine was twice as fast when the other costs were measured."""
    fast = replace(COSTS, verify=(PLAIN / 2, PLAIN))
    found = measured(Fresh(target, grows=GROWS), monkeypatch, fast)
    slow = measured(Fresh(target, grows=GROWS), monkeypatch)
    assert [s for _, s in found.verify_tree] == pytest.approx(
        [seconds / 2 for _, seconds in slow.verify_tree]
    )
    assert found.verify_per_token == pytest.approx(slow.verify_per_token / 2)
    assert found.attention_per_token == pytest.approx(slow.attention_per_token / 2)


def test_larger_trees_are_never_cheaper(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(Fresh(target, node=-0.1), monkeypatch)
    (_, small), (_, large) = found.verify_tree
    assert small == large == pytest.approx(PLAIN - 0.1 * (7 + 31) / 2)


def test_measuring_lasts_for_the_time_given_up_to_a_limit(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    benches = [Fresh(target) for _ in range(3)]
    for bench, seconds in zip(benches, (0.0, 9000.0, 1e9), strict=True):
        measured(bench, monkeypatch, seconds=seconds)
    few, some, many = (len(bench.lengths) / 2 for bench in benches)  # two texts
    assert (few, many) == (
        tree_cost_measurement.MIN_CYCLES,
        tree_cost_measurement.MAX_CYCLES,
    )
    assert few < some < many


@pytest.mark.parametrize(
    ("limit", "nodes"), [(256, [8, 32]), (60, [8, 32]), (36, [8]), (12, []), (2, [])]
)
def test_trees_that_the_context_has_no_room_for_are_left_out(
    target: Target, limit: int, nodes: list[int]
) -> None:
    small = replace(target, context_limit=limit)
    found = measure_tree_and_context_costs(small, [5] * 20, COSTS, seconds=0.0)
    assert [count for count, _ in found.verify_tree] == nodes
    if not nodes:
        assert found == COSTS


def test_models_without_tree_masks_have_no_tree_costs(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = replace(
        tree_cost_measurement.attention_mask_format(target.model),
        unsupported_reason="its positions are ALiBi biases",
    )
    monkeypatch.setattr(tree_cost_measurement, "attention_mask_format", lambda model: refused)
    found = measured(Fresh(target, grows=GROWS), monkeypatch, GROWN)
    assert found.verify_tree == ()
    assert found.verify_per_token == pytest.approx(DEPTH * GROWS, rel=0.02)


def test_measured_trees_are_binary_and_of_the_given_depth(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    bench = Fresh(target)

    def step_tree(tokens: Sequence[int], depths: Sequence[int], attends: Tensor) -> Tensor:
        assert list(depths) == [0, 1, 1, 2, 2, 2, 2, 3]
        seen.append(attends)
        return bench.step(tokens)

    monkeypatch.setattr(bench, "step_tree", step_tree)
    measured(bench, monkeypatch, nodes=[8])
    assert [int(row.sum()) for row in seen[0]] == [1, 2, 2, 3, 3, 3, 3, 4]


# Longer texts


def test_the_cost_per_context_token_is_measured(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Fresh(target, grows=GROWS)
    found = measured(bench, monkeypatch, GROWN)
    # The rounds themselves make the text a few tokens longer.
    assert found.attention_per_token == pytest.approx(GROWS, rel=0.02)
    assert found.verify_per_token == pytest.approx(DEPTH * GROWS, rel=0.02)
    short, long = sorted(set(bench.lengths))
    assert short == len(CONTEXT)
    assert 2 * short <= long <= 4 * short
    assert max(bench.lengths) <= target.context_limit // 2


@pytest.mark.parametrize("grows", [0.0, -0.001])
def test_a_text_that_seems_to_become_cheaper_costs_the_same(
    target: Target, monkeypatch: pytest.MonkeyPatch, grows: float
) -> None:
    found = measured(Fresh(target, grows=grows), monkeypatch)
    assert (found.attention_per_token, found.verify_per_token) == (0.0, 0.0)


def test_without_room_for_a_longer_text_growth_is_not_measured(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Fresh(replace(target, context_limit=3 * len(CONTEXT)), grows=GROWS)
    found = measured(bench, monkeypatch)
    assert (found.attention_per_token, found.verify_per_token) == (0.0, 0.0)
    assert set(bench.lengths) == {len(CONTEXT)}
    assert found.verify_tree


def test_real_rounds_have_costs_and_the_target_decodes_as_before(target: Target) -> None:
    def text() -> list[int]:
        engine = Engine(target, 64)
        rounds = decode(engine, CONTEXT, NoDrafter(), SamplingOptions(), Limits(8, 64))
        return [token for each in rounds for token in each.emitted]

    before = text()
    costs = measure_costs(target, CONTEXT, 3, seconds=0.0)
    found = measure_tree_and_context_costs(
        target, CONTEXT, costs, seconds=0.0, draft_config=DraftConfig(attention_window=8)
    )
    assert [nodes for nodes, _ in found.verify_tree] == [8, 32]
    assert min(seconds for _, seconds in found.verify_tree) > 0
    assert min(found.attention_per_token, found.verify_per_token) >= 0
    assert text() == before
    assert torch.is_grad_enabled()


# Costs as values


def test_sizes_between_those_measured_lie_on_lines() -> None:
    costs = replace(COSTS, verify=(10.0, 11.0), verify_tree=((8, 24.0), (32, 48.0)))
    assert [costs.tree(n) for n in (1, 4, 8, 20, 32)] == [10.0, 16.0, 24.0, 36.0, 48.0]
    assert costs.tree(33) is None
    assert COSTS.tree(8) is None


def test_costs_at_another_text_length() -> None:
    costs = replace(
        COSTS, verify_tree=((8, 40.0),), attention_per_token=GROWS, verify_per_token=0.05
    )
    there = costs.at(len(CONTEXT) + 100)
    assert there.context == len(CONTEXT) + 100
    assert there.attention == pytest.approx(ATTENTION + 1.0)
    assert there.verify == pytest.approx((PLAIN + 5, PLAIN + 6))
    assert there.verify_tree == ((8, pytest.approx(45.0)),)
    keeps_one = SkipMask.of(DEPTH, [0, 1], range(DEPTH))
    assert there.draft_step(keeps_one) == pytest.approx(costs.draft_step(keeps_one) + 1.0)
    assert (there.mlp, there.overhead, there.layer_overhead) == (
        costs.mlp,
        costs.overhead,
        costs.layer_overhead,
    )
    assert costs.at(len(CONTEXT)) == costs
    assert costs.at(3) == costs
