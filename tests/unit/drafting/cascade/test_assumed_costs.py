"""Sampled by rejection, the cascade takes rounds to cost what is assumed, whatever they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import cycle
from typing import Any

import pytest
import torch
from support.cascade import cascade
from support.chances import LEAST_P
from support.distributions import p_value, right_answer
from support.table_engine import PROCESSED, TableEngine, sample
from support.tiny import tiny_llama, tiny_prompts, tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.decoding.api import generate_rounds
from skipopt.draft_config import DraftConfig
from skipopt.draft_memory.memory import DraftMemory
from skipopt.drafting.assumed_costs import SAMPLED_COPIES, AssumedCosts, assumed_costs
from skipopt.drafting.base import DraftState, RoundOutcome
from skipopt.drafting.cascade import CascadeDrafter
from skipopt.drafting.registry import make_drafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.online.state import OnlineState
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.runtime.break_even import Preparation
from skipopt.sampling import SamplingOptions, TokenSampler

PAIRS = 300
WHOLE = SkipMask.empty(4)


def drawn(
    monkeypatch: pytest.MonkeyPatch, tables: TableEngine, seconds: Sequence[float], **options: Any
) -> list[Round]:
    """Rounds whose drafts and verifications took these times in turn."""
    times, observe = cycle(seconds), CascadeDrafter.observe

    def timed(drafter: CascadeDrafter, outcome: RoundOutcome) -> None:
        observe(drafter, replace(outcome, draft_seconds=next(times), verify_seconds=next(times)))

    with monkeypatch.context() as patched:
        patched.setattr(CascadeDrafter, "observe", timed)
        return sample(tables, cascade(tables, **options), PROCESSED, PAIRS)[1]


def test_what_is_drafted_does_not_depend_on_measured_times(
    monkeypatch: pytest.MonkeyPatch, tables: TableEngine
) -> None:
    """Drafts that take a hundred plain steps, and drafts that take none."""
    slow = drawn(monkeypatch, tables, [100.0, 1.0, 70.0, 1.3])
    fast = drawn(monkeypatch, tables, [0.0, 1.0, 0.0])
    facts = [[(r.drafted, r.sources, r.emitted) for r in rounds] for rounds in (slow, fast)]
    assert facts[0] == facts[1]
    assert {source for each in slow for source in each.sources} == {"drafted", "copied"}


def test_tokens_that_are_read_ahead_are_priced_as_rows() -> None:
    """Two steps of 0.5 seconds, three tokens ahead of them at 0.1, and a verification."""
    costs = AssumedCosts(0.5, tuple(1 + 0.1 * rows for rows in range(9)))
    draft = replace(DraftTree.chain((1, 2, 3, 4), forwards=2), guessed=3)
    priced = costs.priced(RoundOutcome(draft, (), (1,), torch.zeros(1, 8), None, 70.0, 70.0))
    assert priced.draft_seconds == pytest.approx(1.3, rel=0.02)
    assert priced.verify_seconds == pytest.approx(1.4, rel=0.02)


def test_a_seed_gives_the_same_text_whatever_was_decoded_before() -> None:
    options, method = SamplingOptions(temperature=0.9, seed=7), "cascade:exit_layer=2"

    def text(target: Target) -> list[int]:
        prompt = [5, 6, 7] * 4
        made = generate_rounds(target, prompt, method=method, max_new_tokens=60, options=options)
        return [token for each in made for token in each.emitted]

    first = tiny_target(tiny_llama(layers=4))
    fresh = text(first)
    for prompt in tiny_prompts(3):
        list(generate_rounds(first, prompt, method=method, max_new_tokens=30))
    assert text(first) == fresh == text(tiny_target(tiny_llama(layers=4)))


def test_no_plain_round_measures_a_plain_step(
    monkeypatch: pytest.MonkeyPatch, tables: TableEngine
) -> None:
    rounds = drawn(monkeypatch, tables, [1.0], costs=Costs(0.01, 0, 0, 0, verify=(1.0,) * 4))
    assert all(each.drafted for each in rounds[:-1])


def test_drafts_that_are_assumed_to_lose_are_paused(
    monkeypatch: pytest.MonkeyPatch, tables: TableEngine
) -> None:
    dear = Costs(2.0, 0, 0, 0, verify=(1.0, 1.1, 1.2, 1.3))
    rounds = drawn(monkeypatch, tables, [0.01], costs=dear)
    assert sum("drafted" in each.sources for each in rounds) < len(rounds) / 4


def test_copies_of_dear_rows_are_not_verified(
    monkeypatch: pytest.MonkeyPatch, tables: TableEngine
) -> None:
    dear = Costs(0.5, 0, 0, 0, verify=(1.0, 2.0, 3.0, 4.0))
    cheap = Costs(0.5, 0, 0, 0, verify=(1.0, 1.0, 1.0, 1.0))
    copied = []
    for costs in (dear, cheap):
        rounds = drawn(monkeypatch, tables, [1.0], costs=costs)
        copied.append(sum(each.sources.count("copied") for each in rounds))
    assert copied[0] < copied[1] / 4


def test_the_verifier_is_the_one_that_lets_memory_change_nothing(tables: TableEngine) -> None:
    assert cascade(tables).best_verifier == "rejection"
    assert cascade(tables, memory=DraftMemory()).best_verifier == "match"


def test_pairs_are_distributed_as_the_targets(tables: TableEngine) -> None:
    tokens, rounds = sample(tables, cascade(tables), PROCESSED, 3000)
    assert {source for each in rounds for source in each.sources} == {"drafted", "copied"}
    assert p_value(tokens, right_answer(tables, PROCESSED)) > LEAST_P


def test_a_sampled_text_begins_with_assumed_costs_and_nothing_measured(
    tables: TableEngine,
) -> None:
    learned = OnlineState()
    for _ in range(30):
        learned.observe(3, 4, 5.0, 9.0, copied=False)
        learned.copy_acceptance["copied"].observe(3, False)
    costs = Costs(0.5, 0, 0, 0, verify=(1.0, 1.25, 1.5))
    drafter = cascade(tables, online_state=learned, costs=costs)
    options = SamplingOptions(temperature=1.0)
    engine: Any = tables
    coupled = TokenSampler(options, torch.device("cpu"), coupled=True)
    drafter.propose(DraftState([3, 1, 4], engine, coupled), 4)
    assert drafter.online_state is learned
    drawn = TokenSampler(options, torch.device("cpu"), coupled=False)
    drafter.propose(DraftState([3, 1, 4], engine, drawn), 4)
    state = drafter.online_state
    assert not state.drafted.known
    assert state.verify.plain == 1.0
    assert state.verify(2) == pytest.approx(1.25, rel=0.02)
    greedy = OnlineState().copy_acceptance["copied"].rate(3)
    assert state.copy_acceptance["copied"].rate(3) == pytest.approx(SAMPLED_COPIES * greedy)


def test_priced_rounds_cost_their_forwards() -> None:
    draft = DraftTree.chain([1, 2, 3], (), forwards=3)
    outcome = RoundOutcome(draft, (0,), (1, 9), torch.zeros(4, 10), None, 77.0, 88.0)
    priced = AssumedCosts(0.5, (1.0, 1.1, 1.2, 1.3)).priced(outcome)
    assert priced.draft_seconds == 1.5
    assert priced.verify_seconds == pytest.approx(1.3, rel=0.01)
    assert priced.emitted == outcome.emitted


@pytest.mark.parametrize(
    ("drafts", "step"),
    [
        (Preparation(WHOLE), 1.0),
        (Preparation(SkipMask.of(4, attention=[0, 1], mlp=[0, 1])), 0.5),
        (Preparation(WHOLE, DraftConfig(8).weights), 0.45),
        (Preparation(WHOLE, DraftConfig(4).weights), 0.4),
    ],
)
def test_usual_steps_take_as_long_as_their_weights_are_read(
    drafts: Preparation, step: float
) -> None:
    target = tiny_target(tiny_llama(layers=4))
    assert assumed_costs(target, drafts, None).step == pytest.approx(step)


def test_measured_costs_of_a_profile_are_those_of_its_own_drafts_only() -> None:
    target = tiny_target(tiny_llama(layers=4))
    costs = Costs(0.25, 0.0, 0.0, 0.0, verify=(1.0, 1.1))
    section = {**asdict(costs), "verify_tree": {}}
    profile = Profile.build(target, SkipMask.of(4, [2]), gamma=2, tau=0.0, costs=section)
    own = make_drafter(target, parse_method("cascade"), profile)
    other = make_drafter(target, parse_method("cascade:quant=int8"), profile)
    assert isinstance(own, CascadeDrafter)
    assert isinstance(other, CascadeDrafter)
    assert own._costs == costs
    assert other._costs is None
