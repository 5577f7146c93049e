"""Models with recurrent layers, convolutions or sparse attention decode as `generate` does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from statistics import median
from typing import Any

import pytest
import torch
from support.architecture_contract import CLOSE, LONG, SHORT, forwards, greedy, logits_of
from support.scripted_drafter import Scripted, follows
from support.scripted_drafter import run as run_scripted

import skipopt
from skipopt.decoding.api import generate_rounds, new_online_state
from skipopt.draft_config import DraftConfig
from skipopt.errors import SkipoptError
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.draft_mode import unsupported_reasons
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.scoring import ScoredText, Scorer
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import Case, emitted
from tools.tiny_models import tiny_model

pytestmark = pytest.mark.slow  # all of them together: minutes

# Recurrent and full attention; a recurrence alone; convolutions and attention; a recurrence and
# attention side by side; attention with an index.
MODELS = ("qwen3_next", "mamba2", "lfm2", "falcon_h1", "deepseek_v32")
# Those that make their cache themselves.
OWN_CACHE = ("minimax", "xlstm")
GAMMAS = (1, 2, 3, 4)
TOKENS = 20
MASKED, COPIES = "layer-skip", "prompt-lookup"
# Every other layer reads the index of the layer before.
SHARED_INDEX = {"num_hidden_layers": 4, "indexer_types": ["full", "shared"] * 2}


@cache
def target_of(name: str) -> Target:
    return make_target(tiny_model(name), None, runtime="eager")


@cache
def expected(name: str) -> dict[int, list[int]]:
    """Greedy decoding by transformers, keyed by the length of the prompt."""
    return {len(prompt): greedy(target_of(name), prompt)[:TOKENS] for prompt in (SHORT, LONG)}


def masked(target: Target, mask: SkipMask, gamma: int) -> Profile:
    return Profile.by_hand(target, attention=mask.attention, mlp=mask.mlp, gamma=gamma)


def case_of(name: str, method: str, gamma: int = 3) -> Case:
    target = target_of(name)
    if method == COPIES:
        return Case(target, f"{COPIES}:gamma={gamma}")
    mask = SkipMask.of(target.depth, attention=[1], mlp=[3])
    return Case(target, MASKED, masked(target, mask, gamma))


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


class WrongFrom(Scripted):
    """Guesses the text; in each round, one guess more is right before the wrong ones."""

    def __init__(self, text: Sequence[int], gamma: int) -> None:
        super().__init__(self._guess, gamma)
        self.text = list(text)

    def _guess(self, tokens: list[int]) -> list[int]:
        right = len(self.outcomes) % (self.gamma + 1)
        return follows(self.text, wrong_from=right)(tokens)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", [*MODELS, *OWN_CACHE])
def test_drafts_are_rejected_at_each_position(name: str, gamma: int) -> None:
    target, text = target_of(name), expected(name)[len(LONG)]
    drafter = WrongFrom([*LONG, *text], gamma)
    assert emitted(run_scripted(target, LONG, drafter, TOKENS)) == text
    accepted = {len(each.path) for each in drafter.outcomes}
    assert accepted >= set(range(gamma + 1))


@pytest.mark.parametrize("method", [MASKED, COPIES])
@pytest.mark.parametrize("name", MODELS)
def test_drafts_of_every_length_give_the_text(name: str, method: str) -> None:
    for gamma in GAMMAS:
        contract.check_greedy_text(case_of(name, method, gamma), contract.PROMPTS[:2])


@pytest.mark.parametrize("method", [MASKED, COPIES])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "check",
    [
        contract.check_penalized_text,
        contract.check_drawn_rounds,
        contract.check_end_of_text,
        contract.check_budget,
        partial(contract.check_commit, prompts=contract.PROMPTS[:1]),
        contract.check_limits,
        contract.check_failure,
        partial(contract.check_sampled_text, prompts=contract.PROMPTS[:1]),
        contract.check_rejection,
    ],
    ids=lambda check: getattr(check, "func", check).__name__,
)
def test_drafts_keep_the_contract(name: str, method: str, check: Any) -> None:
    check(case_of(name, method))


@pytest.mark.parametrize("name", ["qwen3_next", "mamba2"])
@pytest.mark.parametrize(
    "method",
    ["suffix", "jacobi", "jacobi:block=3", "layer-skip:exit_layer=2", "layer-skip:exit_layer=1"],
)
def test_chains_of_other_methods_give_the_tokens_of_generate(name: str, method: str) -> None:
    for prompt in (SHORT, LONG):
        rounds = generate_rounds(target_of(name), prompt, method=method, max_new_tokens=TOKENS)
        assert emitted(rounds) == expected(name)[len(prompt)]


@pytest.mark.parametrize("name", ["qwen3_next", "mamba2", "xlstm"])
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


@pytest.mark.parametrize("name", OWN_CACHE)
def test_the_text_of_a_model_with_its_own_cache_does_not_depend_on_earlier_ones(name: str) -> None:
    target = target_of(name)
    mask = SkipMask.of(target.depth, mlp=[1, 2])
    engine = Engine(target, 64)
    found = []
    for prompt in (SHORT, LONG, SHORT):
        engine.rewind(0)
        engine.prefill(prompt[:-1])
        with engine.draft_mode(mask):
            engine.step(prompt[-1:])
            engine.step([7])
        engine.rewind(len(prompt) - 1)
        found.append(engine.step([prompt[-1], 7, 8]))
        engine.commit(len(prompt) - 1, [0, 1])
        found[-1] = torch.cat([found[-1][:2], engine.step([9, 10])])
        expected = logits_of(target, [*prompt, 7, 9, 10])[-4:]
        assert float((found[-1] - expected).abs().max()) < CLOSE
    assert torch.equal(found[0], found[2])


def test_a_cache_of_the_models_own_is_copied_at_the_latest_certain_token() -> None:
    target, gamma, rows = target_of("minimax"), 2, []
    text = expected("minimax")[len(LONG)]

    def note(module: Any, args: Any, kwargs: Any) -> None:
        rows.append(kwargs["input_ids"].shape[1])

    hook = target.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        one_right = Scripted(follows([*LONG, *text], wrong_from=1), gamma)
        run_scripted(target, LONG, one_right, TOKENS)
    finally:
        hook.remove()
    assert rows[0] == len(LONG) - 1
    # A round reads its own token and drafts, and before them the two tokens of the round before.
    assert rows[1:5] == [gamma + 1, 2, gamma + 1, 2]
    assert max(rows[1:]) == gamma + 1


@pytest.mark.parametrize("method", ["token-recycling", "lookahead", "swift:tau=0"])
def test_a_cache_of_the_models_own_holds_one_branch(method: str) -> None:
    target = target_of("minimax")
    profile = masked(target, SkipMask.of(target.depth, mlp=[1]), 3)
    with pytest.raises(SkipoptError) as refusal:
        list(generate_rounds(target, LONG, profile=profile, method=method, max_new_tokens=TOKENS))
    assert refusal.value.hint
    with pytest.raises(SkipoptError, match="cannot be scored"):
        Scorer(target, [ScoredText((*LONG, 1, 2), len(LONG))])


def test_drafts_of_a_model_with_its_own_cache_have_no_window() -> None:
    window = DraftConfig(attention_window=16)
    assert list(unsupported_reasons(target_of("minimax"), window)) == [window]


def test_models_with_an_index_verify_trees() -> None:
    name = "deepseek_v32"
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


def test_layers_whose_index_others_read_can_be_skipped() -> None:
    target = make_target(tiny_model("glm_moe_dsa", **SHARED_INDEX), None, runtime="eager")
    assert [layer.feeds_others for layer in target.layers] == [True, False] * 2
    whole, depth = greedy(target, LONG)[:TOKENS], target.depth
    for skipped in ([0], [1, 2], range(depth)):
        mask = SkipMask.of(depth, attention=skipped, mlp=skipped)
        rounds = generate_rounds(
            target, LONG, profile=masked(target, mask, 3), max_new_tokens=TOKENS
        )
        assert emitted(rounds) == whole, mask
    with pytest.raises(SkipoptError, match="cannot be scored") as refusal:
        Scorer(target, [ScoredText((*LONG, *whole), len(LONG))])
    assert refusal.value.hint


@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4_text"])
def test_layers_whose_keys_others_read_can_be_skipped(name: str) -> None:
    target, text = target_of(name), expected(name)[len(LONG)]
    feeding = [layer.index for layer in target.layers if layer.feeds_keys]
    assert feeding
    for skipped in (feeding, range(target.depth)):
        mask = SkipMask.of(target.depth, attention=skipped, mlp=skipped)
        rounds = generate_rounds(
            target, LONG, profile=masked(target, mask, 3), max_new_tokens=TOKENS
        )
        assert emitted(rounds) == text, mask
