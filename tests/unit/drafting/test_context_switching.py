"""Drafters for longer contexts replace one another as the text grows, without changing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import is_

import pytest
from support import drafter_contract
from support.chances import LEAST_P
from support.distributions import p_value, right_answer
from support.table_engine import MASK, PROCESSED, TableEngine, sample, table_engine
from support.tiny import tiny_gpt2, tiny_target

from skipopt.decoding.api import generate_rounds
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.decoding.setup import make_decoding
from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.context_switching import ContextSwitchingDrafter
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.plain import NoDrafter
from skipopt.drafting.registry import make_drafter
from skipopt.drafting.rsd_s import BeamTreeDrafter
from skipopt.drafting.swift import SwiftDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import GREEDY, LENGTH, PROMPTS, Case, End, emitted, plain, run
from skipopt.verification.match import Match

# Methods that draft under a profile's mask.
MASKED = (
    "layer-skip",
    "layer-skip:tau=0.3:adaptive_tau=yes",
    "swift:max_depth=4:tau=0.3:cost_aware=no:score_tokens=4:search_overhead=1.0:auto_disable=no",
    "rsd-c",
    "rsd-s",
    "cascade:auto_disable=no",
    "jacobi:block=4:draft_iterations=2",
)
STARTS = (0, 10, 14)  # prompts have 1 to 9 tokens, texts 16 more

every_masked = pytest.mark.parametrize("method", MASKED)


def bucketed(target: Target, starts: Sequence[int] = STARTS) -> Profile:
    """A profile with another mask and another γ at each of these lengths."""
    layers = target.depth
    masks = [SkipMask.of(layers, [1]), SkipMask.of(layers, mlp=[1]), SkipMask.of(layers, [1], [1])]
    contexts = [
        {
            "min_context": start,
            "mask": {"attention": mask.attention, "mlp": mask.mlp},
            "drafting": {"gamma": gamma, "tau": 0.0},
        }
        for start, mask, gamma in zip(starts[1:], masks[1:], (2, 5), strict=True)
    ]
    return Profile.build(target, masks[0], gamma=3, tau=0, contexts=contexts)


@cache
def small_target(context: int = 256) -> Target:
    return drafter_contract.small_target(context)


@pytest.fixture
def drafted_from(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The context lengths whose drafters drafted at least one token in this test."""
    seen: set[int] = set()

    class Watched(ContextSwitchingDrafter):
        def propose(self, state: DraftState, limit: int) -> DraftTree:
            draft = super().propose(state, limit)
            if draft.tokens:
                seen.add(self._starts[self._drafters.index(self._current)])
            return draft

    monkeypatch.setattr("skipopt.drafting.registry.ContextSwitchingDrafter", Watched)
    return seen


# --- the text


@pytest.mark.slow
@every_masked
@pytest.mark.parametrize(
    "check",
    [
        contract.check_greedy_text,
        contract.check_sampled_text,
        contract.check_rejection,
        contract.check_drawn_rounds,
        contract.check_commit,
        contract.check_end_of_text,
        contract.check_failure,
    ],
)
def test_drafters_of_every_context_length_pass_the_contract(
    check: contract.Check, method: str, drafted_from: set[int]
) -> None:
    target = small_target()
    check(Case(target, method, bucketed(target)))
    assert drafted_from == set(STARTS)


@every_masked
def test_the_drafter_may_change_near_the_end_of_the_context(
    method: str, drafted_from: set[int]
) -> None:
    target = small_target(context=14)
    contract.check_context_end(Case(target, method, bucketed(target, (0, 10, 12))))
    assert drafted_from == {0, 10, 12}
    learned = tiny_target(tiny_gpt2(layers=3, context=24))
    contract.check_context_end(Case(learned, method, bucketed(learned, (0, 18, 22))), reach=6)


@pytest.mark.slow
def test_sampled_pairs_are_as_the_targets_through_many_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = table_engine(monkeypatch)
    tokens, rounds = sample(engine, many(engine), PROCESSED, 5000)
    rate = Statistics.of(rounds).acceptance_rate
    assert rate is not None
    assert 0.1 < rate < 0.7
    assert p_value(tokens, right_answer(engine, PROCESSED)) > LEAST_P


def test_matched_text_is_that_of_plain_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = table_engine(monkeypatch)
    expected, _ = sample(engine, NoDrafter(), PROCESSED, 500, Match())
    assert sample(engine, many(engine), PROCESSED, 500, Match())[0] == expected


def many(engine: TableEngine) -> ContextSwitchingDrafter:
    """A new drafter every 50 tokens, of chains and trees."""
    drafters: dict[int, Drafter] = {}
    for i in range(800):
        chain = LayerSkipDrafter(engine.target, MASK, 1 + i % 4, 0.5 * (i % 2))
        tree = BeamTreeDrafter(engine.target, MASK, width=2, depth=2)
        drafters[50 * i] = tree if i % 3 == 2 else chain
    return ContextSwitchingDrafter(drafters)


# --- which drafter drafts


@dataclass
class Fixed(Drafter):
    """Proposes drafts of a fixed length, and records the drafts it observes."""

    count: int

    def __post_init__(self) -> None:
        self.max_extra_rows = self.count
        self.asked: list[int] = []
        self.proposed: list[DraftTree] = []
        self.observed: list[DraftTree] = []

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        self.asked.append(len(state.tokens))
        self.proposed.append(DraftTree.chain((1,) * min(self.count, limit)))
        return self.proposed[-1]

    def observe(self, outcome: RoundOutcome) -> None:
        self.observed.append(outcome.draft)


def test_the_length_at_the_start_of_a_round_selects_the_drafter_that_observes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, third = drafters = Fixed(1), Fixed(2), Fixed(3)
    engine = table_engine(monkeypatch)
    tokens, rounds = sample(
        engine, ContextSwitchingDrafter({30: third, 0: first, 10: second}), GREEDY, 30, Match()
    )
    assert len(tokens) == 61
    asked = [length for each in drafters for length in each.asked]
    assert asked == sorted(asked), "no drafter comes twice"
    assert len(asked) == len(rounds)
    assert max(first.asked) < 10 <= min(second.asked)
    assert max(second.asked) < 30 <= min(third.asked)
    for each in drafters:
        assert len(each.observed) == len(each.proposed) > 1
        assert all(map(is_, each.observed, each.proposed)), "observed another drafter's draft"


def test_a_bound_belongs_to_the_longer_texts() -> None:
    target = small_target()
    lengths = {9: 3, 10: 2, 13: 2, 14: 5}
    for prompt, gamma in lengths.items():
        case = Case(target, "layer-skip", bucketed(target))
        rounds = run(case, [1] * prompt, End(12))
        assert len(rounds[0].drafted) == gamma


def test_a_long_prompt_begins_with_the_mask_of_its_length(drafted_from: set[int]) -> None:
    target = small_target()
    case = Case(target, "layer-skip", bucketed(target))
    prompt = tuple(i % 64 for i in range(40))
    assert emitted(run(case, prompt)) == plain(target, prompt)
    assert drafted_from == {14}


def test_rows_and_verifier_are_those_of_the_drafters() -> None:
    target = small_target()
    profile = bucketed(target)
    sampled = SamplingOptions(temperature=1.0)
    way = make_decoding(target, parse_method("layer-skip"), profile, sampled)
    assert way.drafter.max_extra_rows == 5
    assert (way.drafter.best_verifier, way.verifier.name) == ("rejection", "rejection")
    cascade = make_drafter(target, parse_method("cascade:max_copy=7"), profile)
    assert (cascade.max_extra_rows, cascade.best_verifier) == (12, "rejection")
    assert Drafter.best_verifier == ContextSwitchingDrafter.best_verifier == "match"
    wants = Fixed(1)
    wants.wants_hidden = True
    assert ContextSwitchingDrafter({0: wants, 5: Fixed(1)}).wants_hidden


def test_only_drafters_that_differ_are_kept() -> None:
    target = small_target()
    profile = bucketed(target)
    for method in ("plain", "prompt-lookup", "lookahead"):
        assert not isinstance(
            make_drafter(target, parse_method(method), profile), ContextSwitchingDrafter
        )
    first = profile.as_dict()["contexts"][0]
    same = {**first, "min_context": 12}
    again = {**first, "min_context": 17}
    twice = Profile.build(target, profile.skip_mask, gamma=3, tau=0, contexts=[first, same, again])
    found = make_drafter(target, parse_method("layer-skip"), twice)
    assert isinstance(found, ContextSwitchingDrafter)
    assert found._starts == [0, 10]


def test_an_option_applies_at_every_length() -> None:
    target = small_target()
    case = Case(target, "layer-skip:gamma=4", bucketed(target))
    rounds = run(case, PROMPTS[0], End(LENGTH))
    assert {len(each.drafted) for each in rounds[:2]} == {4}
    assert max(len(each.drafted) for each in rounds) == 4


def test_generate_changes_drafters_too(drafted_from: set[int]) -> None:
    target = small_target()
    rounds = generate_rounds(target, PROMPTS[0], profile=bucketed(target), max_new_tokens=LENGTH)
    assert emitted(rounds) == plain(target, tuple(PROMPTS[0]))
    assert drafted_from == set(STARTS)


# --- state that survives a change


def test_measured_costs_and_acceptance_rates_survive_a_change() -> None:
    target = small_target()
    drafter = make_drafter(target, parse_method("cascade:auto_disable=no"), bucketed(target))
    assert isinstance(drafter, ContextSwitchingDrafter)
    learned = [each.online_state for each in drafter._drafters]  # type: ignore[attr-defined]
    run_with(drafter, target, [3] * 9)
    last = drafter._current.online_state  # type: ignore[attr-defined]
    assert learned[0].overall.known
    assert last.verify is learned[0].verify
    assert last.copy_acceptance is learned[0].copy_acceptance
    assert last.decode_seconds > learned[0].decode_seconds > 0


def test_a_search_begins_with_the_mask_of_its_length() -> None:
    target = small_target()
    profile = bucketed(target)
    method = (
        "swift:score_tokens=100:auto_disable=no"  # too little text for a better mask to be found
    )
    drafter = make_drafter(target, parse_method(method), profile)
    assert isinstance(drafter, ContextSwitchingDrafter)
    run_with(drafter, target, PROMPTS[0])
    last = drafter._current
    assert isinstance(last, SwiftDrafter)
    assert last.mask == profile.at(14).mask != profile.at(0).mask
    first = drafter._drafters[0]
    assert isinstance(first, SwiftDrafter)
    assert last.online_state.verify is first.online_state.verify
    assert last.online_state.mask_search is not first.online_state.mask_search


def run_with(drafter: Drafter, target: Target, prompt: list[int]) -> None:
    limits = Limits(LENGTH, target.context_limit)
    engine = Engine(target, 64 + drafter.max_extra_rows)
    rounds = list(decode(engine, prompt, drafter, GREEDY, limits))
    assert emitted(rounds) == plain(target, tuple(prompt))
