"""SWIFT: the shape of its trees, verification, and two known bugs of the published code."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from support.chances import LEAST_P
from support.distributions import p_value, right_answer
from support.swift import (
    EAGER,
    FAST,
    SAMPLED,
    VOCABULARY,
    on_tables,
    rounds_on,
    state_of,
    sure_of,
)
from support.table_engine import MASK, PROCESSED, TableEngine, sample

from skipopt.drafting.base import DraftState
from skipopt.drafting.plain import NoDrafter
from skipopt.drafting.swift import SwiftDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.drafting.tree_builder import ROOT
from skipopt.errors import UsageError
from skipopt.models.target import Target
from skipopt.online.swift_search import alternating
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.sampling import SamplingOptions
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import Case
from skipopt.verification.match import Match

PAIRS = 5000


@pytest.mark.parametrize(
    ("confidence", "children"),
    [(0.96, 3), (0.94, 5), (0.81, 5), (0.79, 8), (0.51, 8), (0.49, 10), (0.2, 10)],
)
def test_lower_confidence_gives_more_siblings(confidence: float, children: int) -> None:
    engine = sure_of(confidence)
    draft = on_tables(engine, max_depth=1).propose(state_of(engine, [0]), 9)
    assert len(draft.tokens) == children
    assert draft.tokens[0] == 1
    assert draft.tokens[1:3] == (0, 2), "the next best, in order"


def test_sibling_counts_are_those_of_the_paper() -> None:
    engine = sure_of(0.96, 0.9, 0.6, 0.4)
    drafter = on_tables(engine, tau=0.0, max_depth=4, siblings=(1, 3, 5, 10))
    draft = drafter.propose(state_of(engine, [0]), 9)
    assert [len(each) for each in draft.children().values()] == [1, 3, 5, 10]
    assert draft.sources.count("drafted") == draft.forwards == 4


def test_only_the_chain_has_children() -> None:
    engine = sure_of(*[0.9] * 6)
    draft = on_tables(engine, max_depth=6).propose(state_of(engine, [0]), 9)
    chain = [i for i, source in enumerate(draft.sources) if source == "drafted"]
    assert [draft.tokens[i] for i in chain] == [1, 2, 3, 4, 5, 6]
    assert set(draft.children()) == {ROOT, *chain[:-1]}
    assert all(siblings[0] in chain for siblings in draft.children().values())


def test_chain_ends_after_the_first_unsure_token_which_is_proposed() -> None:
    engine = sure_of(0.9, 0.81, 0.79, 0.9)
    draft = on_tables(engine).propose(state_of(engine, [0]), 9)
    assert draft.forwards == 3
    assert draft.depths()[-1] == 3
    assert 3 in draft.tokens


@pytest.mark.parametrize(("depth", "limit", "expected"), [(2, 9, 2), (9, 3, 3), (25, 0, 0)])
def test_depth_is_capped_and_limited(depth: int, limit: int, expected: int) -> None:
    engine = sure_of(*[0.9] * 12)
    draft = on_tables(engine, max_depth=depth).propose(state_of(engine, [0]), limit)
    assert max(draft.depths(), default=0) == draft.forwards == expected
    assert engine.position == 0


def test_expensive_rows_have_no_siblings() -> None:
    engine = sure_of(0.6, 0.6, 0.6)
    drafter = on_tables(engine, cost_aware=True, tau=0.0, max_depth=3)
    for rows in (1, 2, 6):
        drafter.online_state.verify.observe(rows, float(rows))
    assert drafter.propose(state_of(engine, [0]), 9).is_chain


def test_cheap_rows_have_the_siblings_of_the_table_while_acceptance_is_likely() -> None:
    engine = sure_of(*[0.6] * 9)
    drafter = on_tables(engine, cost_aware=True, tau=0.0, max_depth=9)
    for _ in range(30):
        for rows in (1, 2, 20):
            drafter.online_state.verify.observe(rows, 1.0 + 0.005 * rows)
    counts = [len(s) for s in drafter.propose(state_of(engine, [0]), 9).children().values()]
    assert counts[:2] == [8, 8]
    assert counts[-1] == 1, "a sibling that deep is hardly ever reached"


def test_siblings_with_coupled_noise_are_possible_choices_of_verification() -> None:
    engine = TableEngine(torch.randn(VOCABULARY, VOCABULARY), torch.randn(16, VOCABULARY))
    state = state_of(engine, [3, 5], SAMPLED)
    draft = on_tables(engine, max_depth=1).propose(state, 9)
    scores = state.sampler.scores(engine.draft[[5]], [2])[0]
    assert list(draft.tokens) == scores.topk(len(draft.tokens)).indices.tolist()
    assert draft.tokens[0] == state.sampler.draft(engine.draft[5], 2)[0]
    assert draft.kind == "point"


def test_drafts_use_the_noise_of_their_own_positions() -> None:
    """A draft with the target's logits is therefore always accepted."""
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    engine = TableEngine(table, table)
    rounds = rounds_on(engine, on_tables(engine, tau=0.0, max_depth=3, siblings=(1, 1, 1, 1)))
    assert {len(each.path) for each in rounds[:-1]} == {3}


def test_impossible_tokens_are_no_siblings() -> None:
    engine = sure_of(0.3)
    options = SamplingOptions(temperature=1.0, top_k=4)
    for coupled in (True, False):
        draft = on_tables(engine, max_depth=1).propose(state_of(engine, [0], options, coupled), 9)
        assert len(draft.tokens) == 4


def test_drawn_siblings_are_children_of_the_row_they_were_drawn_from() -> None:
    engine = sure_of(0.6, 0.6)
    state = state_of(engine, [0], SAMPLED, coupled=False)
    draft = on_tables(engine, tau=0.0, max_depth=2).propose(state, 9)
    assert draft.kind == "without-replacement"
    expected = state.sampler.probabilities(engine.draft[[0]])[0]
    assert torch.equal(draft.draft_probs[ROOT], expected)
    assert set(draft.draft_probs) == set(draft.parents)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"max_depth": 0}, "not 0"),
        ({"tau": 1.5}, r"not 1\.5"),
        ({"tau": -0.1}, r"not -0\.1"),
        ({"siblings": (3, 5, 8)}, "not 3-5-8"),
        ({"siblings": (3, 5, 0, 1)}, "not 3-5-0-1"),
        ({"search_overhead": 0.0}, r"not 0\.0"),
        ({"search_overhead": 1.1}, r"not 1\.1"),
        ({"score_tokens": 0}, "not 0"),
        ({"skip_ratio": 1.0}, r"not 1\.0"),
    ],
)
def test_options_out_of_range(target: Target, options: Any, value: str) -> None:
    with pytest.raises(UsageError, match=value):
        SwiftDrafter(target, **options)


@pytest.mark.parametrize("options", ["", ":tune_mask=no", ":skip_ratio=0.2", ":siblings=1-2-3-4"])
def test_text_is_that_of_plain_decoding_greedy_and_matched(target: Target, options: str) -> None:
    case = Case(target, EAGER + options)
    contract.check_greedy_text(case, contract.PROMPTS[:3])
    contract.check_sampled_text(case, contract.PROMPTS[:1])


def test_mask_of_a_profile_is_the_first_one(target: Target) -> None:
    profile = Profile.by_hand(target, attention=[1, 2], mlp=[3], gamma=2)
    contract.check_greedy_text(Case(target, EAGER, profile), contract.PROMPTS[:3])
    mask = profile.skip_mask
    assert SwiftDrafter(target, mask).mask == mask
    assert SwiftDrafter(target).mask == alternating(6)


def test_swift_bug_padding_with_token_zero_is_taken_for_a_draft() -> None:
    """The published code pads paths with token 0 and accepts the padding when the target emits 0.

    Here the target emits 0 after every leaf and wherever else it can.
    """
    generator = torch.Generator().manual_seed(3)
    whole, noise = torch.randn(2, 8, 8, generator=generator)
    whole[:, 0] += 1.5
    engine = TableEngine(whole, whole + 0.6 * noise)
    plain = [token for each in rounds_on(engine, NoDrafter()) for token in each.emitted]
    rounds = rounds_on(engine, on_tables(engine, tau=0.3, max_depth=4, siblings=(1, 2, 2, 3)))
    assert [token for each in rounds for token in each.emitted] == plain
    assert 0.2 < plain.count(0) / len(plain) < 0.8
    behind_leaves = [each for each in rounds if each.path and each.emitted[-1] == 0]
    assert len(behind_leaves) > 10
    assert {len(each.path) for each in rounds} >= {0, 1, 2, 3}


@pytest.mark.parametrize("verify", ["match", "rejection"])
def test_swift_bug_bonus_token_from_unprocessed_logits(tables: TableEngine, verify: str) -> None:
    """The published code ignores temperature and top-p for the bonus token."""
    options = SamplingOptions(temperature=0.4, top_p=0.85, seed=4)
    possible = right_answer(tables, options) > 0
    drafter = on_tables(tables, tau=0.3, max_depth=3, siblings=(1, 2, 2, 3))
    judge = Match() if verify == "match" else None
    tokens, rounds = sample(tables, drafter, options, 1500, judge)
    assert all(possible[a, b] for a, b in pairwise(tokens))
    assert sum(len(each.path) == max(depths(each)) for each in rounds if each.drafted) > 100


def depths(round_: Round) -> list[int]:
    return DraftTree(round_.drafted, round_.parents).depths()


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.45])
def test_swift_by_rejection_samples_pairs_as_the_target_does(
    tables: TableEngine, tau: float
) -> None:
    drafter = on_tables(tables, tau=tau, max_depth=3, siblings=(1, 2, 2, 3))
    tokens, rounds = sample(tables, drafter, PROCESSED, PAIRS)
    assert {len(each.path) for each in rounds} >= {0, 1, 2}
    assert any(len(each.drafted) > len(set(depths(each))) for each in rounds), "siblings"
    assert p_value(tokens, right_answer(tables, PROCESSED)) > LEAST_P


class LikeliestFirst(SwiftDrafter):
    """Extends the chain from the likeliest of the drawn children, not from the first."""

    def _draft(self, state: DraftState, deepest: int) -> DraftTree:
        draft = super()._draft(state, min(deepest, 1))
        if not draft.tokens:
            return draft
        row = draft.draft_probs[ROOT]
        tokens = sorted(draft.tokens, key=lambda token: -float(row[token]))
        return DraftTree(tuple(tokens), draft.parents, draft.kind, draft.draft_probs)


@pytest.mark.slow
def test_check_rejects_siblings_that_are_sorted(tables: TableEngine) -> None:
    drafter = LikeliestFirst(tables.target, MASK, siblings=(2, 2, 2, 3), **FAST)
    tokens, _ = sample(tables, drafter, PROCESSED, PAIRS)
    assert p_value(tokens, right_answer(tables, PROCESSED)) < LEAST_P
