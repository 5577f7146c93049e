"""Models with recurrent layers, convolutions or sparse attention decode as `generate` does."""

from __future__ import annotations

from functools import cache
from statistics import median

import pytest
import torch
from support.architecture_contract import LONG, SHORT, forwards, greedy, logits_of
from support.stateful_models import INDEXED, SHARING, STATEFUL, sharing_model, stateful_model

import skipopt
from skipopt.decoding.api import generate_rounds, new_online_state
from skipopt.errors import SkipoptError
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.load import make_target
from skipopt.scoring import ScoredText, Scorer
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import Case, emitted

MODELS = [*STATEFUL, *INDEXED]
FEW = ["qwen3_next", "lfm2", "falcon_h1", "mamba2", "deepseek_v32"]
GAMMAS = (1, 2, 3, 4)
TOKENS = 20


@cache
def target_of(name: str) -> Target:
    return make_target(stateful_model(name), None, runtime="eager")


@cache
def expected(name: str) -> dict[int, list[int]]:
    """Greedy decoding by transformers, keyed by the length of the prompt."""
    return {len(prompt): greedy(target_of(name), prompt)[:TOKENS] for prompt in (SHORT, LONG)}


def masks(depth: int) -> list[SkipMask]:
    every = range(depth)
    return [
        SkipMask.of(depth, attention=[0]),
        SkipMask.of(depth, mlp=[1]),
        SkipMask.of(depth, attention=[1, 2], mlp=[2]),
        SkipMask.of(depth, attention=every),
        SkipMask.of(depth, mlp=every),
    ]


def masked(target: Target, mask: SkipMask, gamma: int) -> Profile:
    return Profile.by_hand(target, attention=mask.attention, mlp=mask.mlp, gamma=gamma)


@pytest.mark.parametrize("name", MODELS)
def test_every_sublayer_matters_and_is_restored(name: str) -> None:
    target = target_of(name)
    before, whole = forwards(target.model), logits_of(target)
    for layer in target.layers:
        for kind in ("attention", "mlp"):
            if not layer.branches(kind):
                continue
            mask = SkipMask.of(target.depth, **{kind: [layer.index]})
            with skipping(target, mask):
                assert float((logits_of(target) - whole).abs().max()) > 0.01, (layer.index, kind)
    assert forwards(target.model) == before
    assert torch.equal(logits_of(target), whole)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["plain", "prompt-lookup", "layer-skip:quant=int8:gamma=3"])
def test_methods_without_a_mask_give_the_tokens_of_generate(name: str, method: str) -> None:
    for prompt in (SHORT, LONG):
        rounds = generate_rounds(target_of(name), prompt, method=method, max_new_tokens=TOKENS)
        assert emitted(rounds) == expected(name)[len(prompt)]


@pytest.mark.parametrize("name", MODELS)
def test_rejected_drafts_leave_the_tokens_of_generate(name: str) -> None:
    target = target_of(name)
    drafted = accepted = 0
    for i, mask in enumerate(masks(target.depth)):
        profile = masked(target, mask, GAMMAS[i % len(GAMMAS)])
        prompt = (SHORT, LONG)[i % 2]
        rounds = list(generate_rounds(target, prompt, profile=profile, max_new_tokens=TOKENS))
        assert emitted(rounds) == expected(name)[len(prompt)], mask
        drafted += sum(len(each.drafted) for each in rounds)
        accepted += sum(each.accepted for each in rounds)
    assert 0 < accepted < drafted


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(
    "check",
    [
        contract.check_greedy_text,
        contract.check_penalized_text,
        contract.check_drawn_rounds,
        contract.check_end_of_text,
        contract.check_budget,
        contract.check_commit,
        contract.check_limits,
        contract.check_failure,
    ],
    ids=lambda check: check.__name__,
)
def test_drafts_under_a_mask_keep_the_contract(name: str, check: object) -> None:
    target = target_of(name)
    mask = SkipMask.of(target.depth, attention=[1], mlp=[3])
    assert callable(check)
    check(Case(target, "layer-skip", masked(target, mask, 3)))


@pytest.mark.parametrize("name", FEW)
def test_sampled_drafts_keep_the_contract(name: str) -> None:
    target = target_of(name)
    mask = SkipMask.of(target.depth, attention=[1], mlp=[3])
    case = Case(target, "layer-skip", masked(target, mask, 3))
    contract.check_sampled_text(case.matched(), contract.PROMPTS[:2])
    contract.check_rejection(case)


@pytest.mark.parametrize("name", ["qwen3_next", "mamba"])
@pytest.mark.parametrize(
    "method",
    ["suffix", "jacobi", "jacobi:block=3", "layer-skip:exit_layer=2", "layer-skip:exit_layer=1"],
)
def test_chains_of_other_methods_give_the_tokens_of_generate(name: str, method: str) -> None:
    for prompt in (SHORT, LONG):
        rounds = generate_rounds(target_of(name), prompt, method=method, max_new_tokens=TOKENS)
        assert emitted(rounds) == expected(name)[len(prompt)]


@pytest.mark.parametrize("name", ["qwen3_next", "mamba2"])
def test_drafts_run_inside_generate(name: str) -> None:
    target = target_of(name)
    profile = masked(target, SkipMask.of(target.depth, attention=[1]), 3)
    found = target.model.generate(
        torch.tensor([LONG]), custom_generate=skipopt.decoder(profile), max_new_tokens=TOKENS
    )
    assert found[0, len(LONG) :].tolist() == expected(name)[len(LONG)]


@pytest.mark.parametrize(
    "method",
    [
        "lookahead",
        "token-recycling",
        "swift:tau=0",
        "rsd-c",
        "rsd-s",
        "layer-skip:exit_layer=2:reuse_exit_state=yes",
    ],
)
def test_methods_that_need_more_are_refused_in_one_line(method: str) -> None:
    target = target_of("qwen3_next")
    profile = masked(target, SkipMask.of(target.depth, mlp=[1]), 3)
    with pytest.raises(SkipoptError) as refusal:
        list(generate_rounds(target, LONG, profile=profile, method=method, max_new_tokens=TOKENS))
    assert refusal.value.hint
    assert "states" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_tuning_while_generating_is_refused_before_it_begins() -> None:
    with pytest.raises(SkipoptError, match="keeps states") as refusal:
        new_online_state(target_of("qwen3_next"))
    assert refusal.value.hint


@pytest.mark.parametrize("name", INDEXED)
def test_models_with_an_index_verify_trees(name: str) -> None:
    for method in ("token-recycling", "lookahead"):
        rounds = generate_rounds(target_of(name), LONG, method=method, max_new_tokens=TOKENS)
        assert emitted(rounds) == expected(name)[len(LONG)]


def test_acceptance_stays_the_same_over_a_long_text() -> None:
    """States that were set back too late or too early would make later drafts worse."""
    target = target_of("qwen3_next")
    profile = Profile.build(target, SkipMask.of(target.depth, mlp=[1]), gamma=3, tau=0.0)
    rounds = list(generate_rounds(target, SHORT, profile=profile, max_new_tokens=200))
    lengths = [len(each.emitted) for each in rounds]
    half = len(lengths) // 2
    assert median(lengths[half:]) >= median(lengths[:half]) - 1


@pytest.mark.parametrize("name", SHARING)
def test_layers_that_others_read_can_be_skipped(name: str) -> None:
    target = make_target(sharing_model(name), None, runtime="eager")
    assert [layer.feeds_others for layer in target.layers].count(True) == 2
    whole, every = greedy(target, LONG)[:TOKENS], range(target.depth)
    for mask in (*masks(target.depth), SkipMask.of(target.depth, every, every)):
        rounds = generate_rounds(
            target, LONG, profile=masked(target, mask, 3), max_new_tokens=TOKENS
        )
        assert emitted(rounds) == whole, mask
    with pytest.raises(SkipoptError, match="cannot be scored") as refusal:
        Scorer(target, [ScoredText((*LONG, *whole), len(LONG))])
    assert refusal.value.hint
