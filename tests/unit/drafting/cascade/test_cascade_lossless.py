"""Options of the cascade; it changes no token and no distribution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Any

import pytest
from support.chances import LEAST_P
from support.distributions import p_value, right_answer
from support.table_engine import MASK, PROCESSED, TableEngine, sample
from support.tiny import tiny_llama, tiny_prompts, tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.drafting.base import DraftState, RoundOutcome
from skipopt.drafting.cascade import CascadeDrafter
from skipopt.drafting.row_budget import RowBudget
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.runtime.verify_costs import VerifyCostEstimator
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import Case

PAIRS = 8000


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(layers=4))


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"max_copy": 0}, "max_copy must be 1 or more, not 0"),
        ({"gamma": 0}, "gamma must be 1 or more, not 0"),
        ({"tau": 2.0}, r"tau must lie in \[0, 1\], not 2\.0"),
        ({"exit_layer": 4}, "not 4"),
    ],
)
def test_options_out_of_range(target: Target, options: Any, value: str) -> None:
    with pytest.raises(UsageError, match=value):
        CascadeDrafter(target, SkipMask.of(4, [1]), **options)


def test_neither_mask_nor_exit(target: Target) -> None:
    with pytest.raises(UsageError, match="needs a mask, an exit"):
        CascadeDrafter(target)


def repetitive() -> list[list[int]]:
    return [prompt * 4 for prompt in tiny_prompts(4)]


def case(target: Target, method: str = "cascade:auto_disable=no") -> Case:
    return Case(target, method, Profile.by_hand(target, attention=[2], gamma=3))


@pytest.mark.slow
def test_text_is_that_of_plain_decoding_greedy_and_matched(target: Target) -> None:
    for method in (
        "cascade:auto_disable=no",
        "cascade",
        "cascade:recycle=yes:auto_disable=no",
        "cascade:exit_layer=2:max_copy=3",
    ):
        contract.check_greedy_text(case(target, method), repetitive())
        contract.check_sampled_text(case(target, method), repetitive()[:1])


@pytest.fixture
def fixed_times(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    """A draft step takes half a plain step, and a further row of verification next to nothing."""
    target.runtime.verify_costs = VerifyCostEstimator()  # earlier tests had other clocks
    observe = CascadeDrafter.observe

    def timed(drafter: CascadeDrafter, outcome: RoundOutcome) -> None:
        drafting = 0.5 * outcome.draft.forwards
        verifying = 1 + 0.002 * len(outcome.draft.tokens)
        observe(drafter, replace(outcome, draft_seconds=drafting, verify_seconds=verifying))

    monkeypatch.setattr(CascadeDrafter, "observe", timed)


def test_all_sources_are_used_and_accepted(target: Target, fixed_times: None) -> None:
    recycling = case(target, "cascade:recycle=yes")
    rounds: list[Round] = [r for p in repetitive() for r in contract.run(recycling, p)]
    accepted = {each.sources[i] for each in rounds for i in each.path}
    assert accepted == {"drafted", "runner-up", "copied", "recycled"}
    assert any(len(set(each.sources)) == 2 for each in rounds), "a copy behind a draft"


def test_a_failed_draft_rewinds_the_engine(target: Target) -> None:
    contract.check_failure(case(target))


@dataclass(frozen=True)
class Turns(RowBudget):
    """Two rounds of copies, then three of own drafts, whatever their gains."""

    turns: Iterator[int]

    def model_gain(self, limit: int) -> float:
        return float("inf") if next(self.turns) % 5 > 1 else float("-inf")


class InTurns(CascadeDrafter):
    @cached_property
    def _turns(self) -> Iterator[int]:
        return count(1)

    @property
    def _budget(self) -> RowBudget:
        return Turns(self.online_state, self._layer_skip.gamma, self._turns)


def in_turns(tables: TableEngine, made: type[InTurns]) -> CascadeDrafter:
    free_rows = Costs(0.1, 0.0, 0.0, 0.0, verify=(1.0,) * 9)
    return made(tables.target, MASK, gamma=2, max_copy=2, auto_disable=False, costs=free_rows)


@pytest.mark.slow
def test_cascade_by_rejection_samples_pairs_as_the_target_does(tables: TableEngine) -> None:
    tokens, rounds = sample(tables, in_turns(tables, InTurns), PROCESSED, PAIRS)
    kinds = [tuple(dict.fromkeys(each.sources)) for each in rounds]
    assert min(kinds.count(kind) for kind in (("copied",), ("drafted", "copied"))) > 2000
    behind = [each.sources[len(each.path) - 1] for each in rounds if len(each.path) > 2]
    assert behind.count("copied") > 200
    assert p_value(tokens, right_answer(tables, PROCESSED)) > LEAST_P


class Peeks(InTurns):
    """Decides whether to draft by the drawn tokens, which is biased."""

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        draft = super().propose(state, limit)
        unlikely = draft.draft_probs and float(draft.draft_probs[-1][draft.tokens[0]]) < 0.4
        return DraftTree() if unlikely else draft


@pytest.mark.slow
def test_check_rejects_a_biased_cascade(tables: TableEngine) -> None:
    tokens, _ = sample(tables, in_turns(tables, Peeks), PROCESSED, PAIRS)
    assert p_value(tokens, right_answer(tables, PROCESSED)) < LEAST_P
