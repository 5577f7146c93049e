"""Lookahead decoding: the window and its mask, the n-gram pool, and periodic and random text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.drafter_contract import small_target
from support.tiny import tiny_llama, tiny_prompts, tiny_target
from torch import Tensor

from skipopt.decoding.api import generate_rounds
from skipopt.decoding.loop import commit, run_target
from skipopt.drafting.base import DraftState, RoundOutcome
from skipopt.drafting.lookahead import LookaheadDrafter
from skipopt.drafting.lookahead_window import LookaheadWindow, first_columns, most_rows
from skipopt.drafting.ngrams import Ngram, NgramPool, merged
from skipopt.drafting.tree import DraftTree, ExtraRows
from skipopt.errors import UsageError
from skipopt.models.target import Target
from skipopt.rounds import Round, Statistics
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler

GREEDY = SamplingOptions()
CLOSE = 1e-4
PROMPT = tiny_prompts(1)[0]


@pytest.fixture(scope="module")
def target() -> Target:
    return small_target()


def rounds_of(target: Target, prompt: Sequence[int], method: str, **settings: Any) -> list[Round]:
    return list(generate_rounds(target, prompt, method=method, **settings))


def emitted(rounds: Sequence[Round]) -> list[int]:
    return [token for each in rounds for token in each.emitted]


# --- the window


def full_window(width: int, depth: int) -> LookaheadWindow:
    """A window with token 10·l + c at level l, column c."""
    window = LookaheadWindow(width, depth, [0] * first_columns(width, depth))
    window.levels = [[10 * level + c for c in range(width)] for level in range(depth)]
    return window


def test_window_rows_attend_as_in_the_paper() -> None:
    side = full_window(3, 3).extra_rows(drafted=2)
    assert side.inputs.tolist() == [1, 2, 10, 11, 12, 20, 21, 22]
    assert side.depths == (1, 2, 1, 2, 3, 2, 3, 4)
    names = ["current", "drafted", "drafted", *side.inputs.tolist()]
    seen = [[names[i] for i in row.nonzero()[:, 0].tolist()] for row in side.attends]
    assert seen == [
        ["current", 1],
        ["current", 1, 2],
        ["current", 10],
        ["current", 1, 11],
        ["current", 1, 2, 12],
        ["current", 10, 20],
        ["current", 1, 11, 21],
        ["current", 1, 2, 12, 22],
    ]


def test_a_full_window_shifts_by_one_and_yields_its_columns_as_ngrams() -> None:
    window = full_window(3, 2)
    assert window.roll(99, [70, 71, 72]) == [(0, 10, 70), (1, 11, 71), (2, 12, 72)]
    assert window.levels == [[10, 11, 12], [70, 71, 72]]
    side = window.extra_rows(drafted=0)
    assert side.inputs.tolist() == [11, 12, 70, 71, 72], "the current token is in column 0's place"


def test_first_column_of_a_single_level_begins_with_the_current_token() -> None:
    window = full_window(3, 1)
    assert window.roll(99, [70, 71, 72]) == [(99, 70), (1, 71), (2, 72)]
    assert window.levels == [[70, 71, 72]]


def test_a_new_window_gains_a_level_and_loses_a_column_a_round() -> None:
    width, depth = 4, 3
    window = LookaheadWindow(width, depth, range(first_columns(width, depth)))
    shapes = []
    for number in range(5):
        shapes.append((len(window.levels), window.columns))
        assert {len(level) for level in window.levels} == {window.columns}
        found = window.roll(99, [100 * number + c for c in range(window.columns)])
        assert bool(found) == (number >= depth - 1)
    assert shapes == [(1, 6), (2, 5), (3, 4), (3, 4), (3, 4)]


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (7, 4), (2, 6), (15, 4), (1, 5)])
def test_max_rows_is_the_largest_number_of_rows(width: int, depth: int) -> None:
    window = LookaheadWindow(width, depth, [0] * first_columns(width, depth))
    met = []
    for _ in range(depth + 2):
        met.append(len(window.extra_rows(drafted=0).depths))
        window.roll(0, [0] * window.columns)
    assert max(met) == most_rows(width, depth)
    assert met[-1] == width * depth - 1


def test_new_tokens_come_from_the_newest_level() -> None:
    logits = torch.arange(20.0)[:, None].expand(20, 5)
    window = full_window(4, 3)
    assert window.continuations(logits[:15], drafted=3)[:, 0].tolist() == [11, 12, 13, 14]
    only = full_window(4, 1)
    assert only.continuations(logits[:6], drafted=2)[:, 0].tolist() == [0, 3, 4, 5]


def test_with_bigrams_the_window_is_a_jacobi_iteration(target: Target) -> None:
    drafter = LookaheadDrafter(target, window=4, ngram=2)
    state = state_of(target, [1, 2, 3])
    draft = drafter.propose(state, 9)
    assert draft.extra_rows is not None
    logits = 9.0 * torch.eye(64)[[30, 31, 32, 33]]
    drafter.observe(RoundOutcome(draft, (), (30,), logits))
    state.tokens.append(30)
    after = drafter.propose(state, 9).extra_rows
    assert after is not None
    assert after.inputs.tolist() == [31, 32, 33]


# --- the window in the verifying forward


def state_of(target: Target, tokens: Sequence[int]) -> DraftState:
    engine = Engine(target, 200)
    engine.prefill(tokens[:-1])
    return DraftState(list(tokens), engine, TokenSampler(GREEDY, target.device, True))


def warm(target: Target, drafter: LookaheadDrafter, rounds: int = 6) -> DraftState:
    """A drafter after some rounds that emit one token each."""
    state = state_of(target, PROMPT)
    for _ in range(rounds):
        draft = drafter.propose(state, 9)
        logits = run_target(state, draft)
        token = int(logits[0].argmax())
        commit(state, (), (token,))
        drafter.observe(RoundOutcome(draft, (), (token,), logits))
    return state


def test_the_window_does_not_change_verification(target: Target) -> None:
    drafter = LookaheadDrafter(target, window=4, ngram=4)
    state = warm(target, drafter)
    side = drafter.propose(state, 9).extra_rows
    assert side is not None
    tree = DraftTree((1, 2, 3, 4), (-1, -1, 0, 2))
    wide = side_of_full_width(side, drafted=len(tree.tokens))
    random = replace(wide, inputs=torch.randint(64, (len(side.depths),)))
    logits = [
        logits_of(state, replace(tree, extra_rows=each))[: 1 + len(tree.tokens)]
        for each in (None, wide, random)
    ]
    assert torch.allclose(logits[0], logits[1], atol=1e-5, rtol=0)
    assert torch.allclose(logits[1], logits[2], atol=1e-6, rtol=0)


def side_of_full_width(side: ExtraRows, drafted: int) -> ExtraRows:
    """The same window rows with a draft of another size, which none of them attends to."""
    own = side.attends[:, -len(side.depths) :]
    unseen = torch.zeros(len(side.depths), drafted, dtype=torch.bool)
    return replace(side, attends=torch.cat([side.attends[:, :1], unseen, own], 1))


def logits_of(state: DraftState, draft: DraftTree) -> Tensor:
    logits = run_target(state, draft)
    state.engine.rewind(len(state.tokens) - 1)
    return logits


def test_each_window_row_continues_the_tokens_it_attends_to(target: Target) -> None:
    """Compared with plain forwards over the tokens that the row attends to."""
    drafter = LookaheadDrafter(target, window=3, ngram=4)
    state = warm(target, drafter)
    draft = drafter.propose(state, 9)
    side = draft.extra_rows
    assert side is not None
    rows = logits_of(state, draft)[1 + len(draft.tokens) :]
    own = side.attends[:, -len(side.depths) :]
    for row, seen in zip(rows, own, strict=True):
        chain = [state.tokens[-1], *side.inputs[seen].tolist()]
        expected = state.engine.step(chain)[-1]
        state.engine.rewind(len(state.tokens) - 1)
        assert torch.allclose(row, expected, atol=CLOSE, rtol=0), chain


def test_last_token_of_a_text_carries_no_window(target: Target) -> None:
    drafter = LookaheadDrafter(target)
    state = warm(target, drafter)
    draft = drafter.propose(state, 0)
    assert draft == DraftTree()
    drafter.observe(RoundOutcome(draft, (), (1,), torch.zeros(1, 64)))


# --- the pool


def ngrams(*texts: str) -> list[Ngram]:
    return [Ngram(tuple(map(int, text)), "seen") for text in texts]


def test_pool_keeps_the_latest_of_each_key() -> None:
    pool = NgramPool(2)
    for each in ngrams("12", "34", "12", "56"):
        pool.add(7, each)
    pool.add(8, *ngrams("99"))
    assert pool.latest(7) == ngrams("56", "12"), "34 was the one not added for longest"
    assert pool.latest(8) == ngrams("99")
    assert pool.latest(9) == []


def test_the_pool_keeps_the_latest_source_of_an_ngram() -> None:
    pool = NgramPool(2)
    pool.add(7, Ngram((1, 2), "text"))
    pool.add(7, Ngram((1, 2), "window"))
    assert pool.latest(7) == [Ngram((1, 2), "window")]


def test_ngrams_with_a_common_prefix_share_tree_nodes() -> None:
    tree = merged([*ngrams("123"), Ngram((1, 2, 4), "later"), *ngrams("523")], depth=3)
    assert tree.tokens == (1, 2, 3, 4, 5, 2, 3)
    assert tree.parents == (-1, 0, 1, 1, -1, 4, 5)
    assert tree.sources == ("seen", "seen", "seen", "later", "seen", "seen", "seen")
    assert merged(ngrams("123", "124", "523"), depth=2).tokens == (1, 2, 5, 2)
    assert merged(ngrams("123"), depth=0) == DraftTree()


def test_ngrams_of_the_prompt_are_drafted_at_once(target: Target) -> None:
    prompt = [1, 2, 3, 4, 5, 1, 6, 7, 8, 1]
    for pooled in (True, False):
        drafter = LookaheadDrafter(target, ngram=4, prompt_pool=pooled)
        draft = drafter.propose(state_of(target, prompt), 9)
        assert draft.tokens == ((6, 7, 8, 2, 3, 4) if pooled else ())
        assert set(draft.sources) == ({"text"} if pooled else set())


def test_ngrams_of_new_text_follow(target: Target) -> None:
    drafter = LookaheadDrafter(target, ngram=3, prompt_pool=True)
    state = state_of(target, [1, 2])
    assert drafter.propose(state, 9).tokens == ()
    state.tokens.extend([3, 1])  # 1-2-3 and 2-3-1 are complete now
    assert drafter.propose(state, 9).tokens == (2, 3)
    state.tokens.extend([2])
    assert drafter.propose(state, 9).tokens == (3, 1)


def test_text_is_read_once_so_that_newer_ngrams_stay(target: Target) -> None:
    drafter = LookaheadDrafter(target, ngram=3, guesses=1)
    state = state_of(target, [1, 2, 3, 1])
    assert drafter.propose(state, 9).tokens == (2, 3)
    drafter._pool.add(1, Ngram((7, 8), "window"))
    assert drafter.propose(state, 9).tokens == (7, 8)


def test_end_of_text_does_not_enter_the_window(target: Target) -> None:
    ending = replace(target, eos_ids=frozenset({30}))
    drafter = LookaheadDrafter(ending, window=3, ngram=2)
    state = state_of(ending, [1, 2, 3])
    draft = drafter.propose(state, 9)
    drafter.observe(RoundOutcome(draft, (), (29,), 9.0 * torch.eye(64)[[29, 30, 31]]))
    state.tokens.append(29)
    side = drafter.propose(state, 9).extra_rows
    assert side is not None
    assert side.inputs[0] in (1, 2, 3)
    assert side.inputs[1] == 31


# --- periodic and random text


def successor_model(cycle: int, vocabulary: int = 32) -> Target:
    """A model in which each token is followed by the next one of a cycle."""
    model = tiny_llama(layers=3, vocabulary=vocabulary)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(vocabulary))
        following = [(token + 1) % cycle for token in range(vocabulary)]
        model.lm_head.weight.zero_()
        for token, after in enumerate(following[:cycle]):
            model.lm_head.weight[after, token] = 1.0
    return tiny_target(model)


@pytest.mark.parametrize("ngram", [2, 3, 5])
def test_periodic_text_yields_a_whole_ngram_per_forward(ngram: int) -> None:
    """N − 1 drafted tokens from the window, and the target's own."""
    target = successor_model(cycle=5)
    method = f"lookahead:window=5:ngram={ngram}:prompt_pool=no"
    rounds = rounds_of(target, [0, 1], method, max_new_tokens=60)
    assert emitted(rounds) == [(2 + i) % 5 for i in range(60)]
    assert [len(each.emitted) for each in rounds[-8:-1]] == [ngram] * 7
    assert all(set(each.sources) <= {"window"} for each in rounds)


@pytest.mark.parametrize("verifier", ["match", "rejection"])
def test_random_text_yields_about_one_token_per_forward(target: Target, verifier: str) -> None:
    wild = SamplingOptions(temperature=3.0, seed=2)
    method = f"lookahead:verify={verifier}"
    rounds = rounds_of(target, PROMPT, method, max_new_tokens=80, options=wild)
    statistics = Statistics.of(rounds)
    assert statistics.drafted > 0
    assert 1.0 <= statistics.mean_acceptance_length < 1.2
    if verifier == "match":
        plain = rounds_of(target, PROMPT, "plain", max_new_tokens=80, options=wild)
        assert emitted(rounds) == emitted(plain)


@pytest.mark.parametrize("temperature", [0.2, 0.7])
@pytest.mark.parametrize("prompt_pool", ["yes", "no"])
def test_sampled_text_is_that_of_plain_sampling(
    target: Target, temperature: float, prompt_pool: str
) -> None:
    options = SamplingOptions(temperature=temperature, seed=6)
    method = f"lookahead:prompt_pool={prompt_pool}"
    for prompt in tiny_prompts(3):
        drafted = rounds_of(target, prompt, method, max_new_tokens=50, options=options)
        plain = rounds_of(target, prompt, "plain", max_new_tokens=50, options=options)
        assert emitted(drafted) == emitted(plain)


@pytest.mark.parametrize("options", [{"window": 0}, {"ngram": 1}, {"guesses": 0}])
def test_impossible_options(target: Target, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="or more"):
        LookaheadDrafter(target, **options)
