"""Verification is timed on rows of different tokens, which go through different experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.experts import CHOSEN, mixture
from support.tiny import tiny_llama, tiny_target

from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.measurement.cost_measurement import measure_costs
from skipopt.measurement.timed_rounds import DraftSpec, time_rounds
from skipopt.measurement.tree_cost_measurement import DummyTreeDrafter
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target

TEXT = [3, 3, 3, 8, 3, 8, 21, 40, 17, 60, 3]


class Stutter(Drafter):
    """Drafts the current token again and again."""

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        return DraftTree.chain([state.tokens[-1]] * 4)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama())


def verified(target: Target, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of several tokens that engines run from now on, as they are run."""
    rows: list[list[int]] = []
    step = Engine.step

    def watched(self: Engine, tokens: Any) -> Any:
        found = [int(each) for each in tokens]
        rows.extend([found] if len(found) > 1 else [])
        return step(self, tokens)

    monkeypatch.setattr(Engine, "step", watched)
    return rows


def test_a_draft_that_repeats_a_token_is_verified_with_others(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = verified(target, monkeypatch)
    spec = DraftSpec(4, SkipMask.empty(target.depth))
    engine = Engine(target, 64)
    for _ in time_rounds(lambda spec: Stutter(), engine, TEXT, [spec], lambda: 0.0):
        pass
    assert rows
    assert all(len(set(each)) == 5 for each in rows)


def test_measured_verifications_have_no_token_twice(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = verified(target, monkeypatch)
    measure_costs(target, TEXT, 5, seconds=0.0)
    assert {len(each) for each in rows} >= {2, 3, 4, 5}
    assert all(len(set(each)) == len(each) for each in rows)


def test_trees_have_different_tokens_as_far_as_the_text_has_some() -> None:
    state: Any = type("State", (), {"tokens": TEXT})()
    assert DummyTreeDrafter(8).propose(state, 9).tokens == (3, 8, 21, 40, 17, 60, 3)


def test_more_rows_go_through_more_experts() -> None:
    model = mixture("mixtral")
    target = make_target(model, None, runtime="eager")
    used: dict[int, set[int]] = {}

    def look(module: Any, args: Any) -> None:
        hidden, chosen, _ = args
        used.setdefault(len(hidden), set()).add(len(chosen.unique()))

    handle = model.model.layers[0].mlp.experts.register_forward_pre_hook(look)
    spec = DraftSpec(4, SkipMask.empty(target.depth))
    for _ in time_rounds(lambda spec: Stutter(), Engine(target, 64), TEXT, [spec], lambda: 0.0):
        pass
    target.model(torch.tensor([[3]]))
    handle.remove()
    assert used[1] == {CHOSEN}
    assert min(used[5]) > CHOSEN
