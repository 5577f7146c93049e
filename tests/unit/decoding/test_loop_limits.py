"""Refused requests, the cache, statistics and prompt lookup in the decoding loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.decoding_loop import GREEDY, LENGTH, emitted, run, skip
from support.tiny import tiny_prompts

from skipopt.decoding.api import (
    DecodingSetup,
    generate,
    generate_rounds,
    make_decoding,
    resolve_method,
)
from skipopt.decoding.loop import Limits, decode, new_engine
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.plain import NoDrafter
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.errors import PromptError, UsageError
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round, Statistics
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler


@pytest.mark.parametrize("count", [0, -1])
def test_no_tokens_asked_for(target: Target, count: int) -> None:
    with pytest.raises(UsageError, match=f"1 or more, not {count}"):
        generate_rounds(target, [1, 2], max_new_tokens=count)


def test_empty_prompt(target: Target) -> None:
    with pytest.raises(PromptError, match="empty"):
        generate_rounds(target, [])


@pytest.mark.parametrize("excess", [0, 1])
def test_prompt_that_fills_the_context(target: Target, excess: int) -> None:
    with pytest.raises(PromptError, match="256"):
        generate_rounds(target, [1] * (256 + excess))


def test_prompt_one_short_of_the_context(target: Target) -> None:
    rounds = list(generate_rounds(target, [1, 2, 3, 4] * 63 + [1, 2, 3], max_new_tokens=9))
    assert [len(r.emitted) for r in rounds] == [1]
    assert rounds[0].stop == "context"


@pytest.mark.parametrize(("gamma", "tau"), [(0, 0.0), (2, -0.1), (2, 1.1)])
def test_impossible_drafts(target: Target, gamma: int, tau: float) -> None:
    with pytest.raises(UsageError):
        skip(target, "sometimes accepted", gamma, tau)


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}]
)
def test_impossible_sampling(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        SamplingOptions(**options)  # type: ignore[arg-type]


def test_methods_by_name(target: Target) -> None:
    profile = Profile.by_hand(target, mlp=[1], gamma=2)
    off = profile.model_copy(update={"enabled": False, "reason": "too slow"})
    assert str(resolve_method(None, None)) == "plain"
    assert str(resolve_method(profile, None)) == "layer-skip"
    assert str(resolve_method(off, None)) == "plain"
    assert str(resolve_method(off, "layer-skip")) == "layer-skip"
    assert str(resolve_method(None, "prompt-lookup:gamma=3")) == "prompt-lookup:gamma=3"
    assert resolve_method(None, "layer-skip:exit_layer=2").options == {"exit_layer": "2"}
    for name in ("layer-skip", "rsd-c", "rsd-s"):
        with pytest.raises(UsageError, match=f"{name} needs a mask"):
            resolve_method(None, name)
    with pytest.raises(UsageError, match="unknown method"):
        resolve_method(profile, "no-such-method")


@pytest.mark.parametrize(
    "text", ["plain:", "plain:gamma", "plain:gamma=", "plain:=3", "plain:A=3"]
)
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not an option"):
        parse_method(text)


def test_ways_are_made_of_profile_and_options(target: Target) -> None:
    profile = Profile.by_hand(target, mlp=[1], gamma=2, tau=0.5)
    warm = SamplingOptions(temperature=1.0)

    def way(method: str, options: SamplingOptions = GREEDY) -> DecodingSetup:
        return make_decoding(target, parse_method(method), profile, options)

    drafter = way("layer-skip:gamma=7").drafter
    assert isinstance(drafter, LayerSkipDrafter)
    assert (drafter.gamma, drafter.max_extra_rows, drafter.tau) == (7, 7, 0.5)
    assert way("layer-skip").drafter.max_extra_rows == 2
    assert way("prompt-lookup").drafter.max_extra_rows == 10
    assert way("layer-skip").verifier.name == "match"
    assert way("layer-skip", warm).verifier.name == "rejection"
    assert way("layer-skip:verify=match", warm).verifier.name == "match"
    assert way("prompt-lookup", warm).verifier.name == "match"
    assert way("prompt-lookup:verify=rejection", warm).verifier.name == "rejection"
    with pytest.raises(UsageError, match="plain has no option 'gamma'") as refusal:
        way("plain:gamma=3")
    assert refusal.value.hint == "its options: none"
    with pytest.raises(UsageError, match="gamma is 'many'"):
        way("layer-skip:gamma=many")


def test_cache_never_grows(target: Target, prompt: list[int]) -> None:
    limits = Limits(LENGTH, 256)
    drafter = skip(target, "sometimes accepted", 5)
    engine = new_engine(target, prompt, limits, drafter.max_extra_rows)
    sizes = set()
    for each in decode(engine, prompt, drafter, GREEDY, limits):
        sizes.add(engine.cache.allocated_bytes)
        assert engine.position < len(prompt) + LENGTH
        assert each.emitted
    assert len(sizes) == 1
    assert engine.cache.capacity == len(prompt) + LENGTH + 5


def test_cache_has_room_for_a_text_up_to_the_context_and_a_draft(target: Target) -> None:
    prompt = [1, 2, 3]
    assert new_engine(target, prompt, Limits(10, 256)).cache.capacity == 13
    assert new_engine(target, prompt, Limits(10, 256), max_extra_rows=7).cache.capacity == 20
    assert new_engine(target, prompt, Limits(1000, 256), max_extra_rows=7).cache.capacity == 263


def test_position_follows_the_tokens(target: Target, prompt: list[int]) -> None:
    limits = Limits(LENGTH, 256)
    engine = new_engine(target, prompt, limits)
    held = len(prompt)
    for each in decode(engine, prompt, skip(target, "sometimes accepted", 5), GREEDY, limits):
        held += len(each.emitted)
        assert engine.position == held - 1


def test_cache_that_is_full_refuses(target: Target) -> None:
    engine = Engine(target, 4)
    engine.prefill([1, 2, 3])
    with pytest.raises(PromptError, match="5 tokens do not fit in a cache of 4"):
        engine.step([4, 5])
    assert engine.position == 3


def test_engine_can_be_used_again(target: Target, prompt: list[int], text: list[int]) -> None:
    engine = Engine(target, 128)
    for _ in range(2):
        rounds = generate_rounds(target, prompt, max_new_tokens=LENGTH, engine=engine)
        assert prompt + emitted(list(rounds)) == text


class Failing(Engine):
    """Fails at the n-th step from now."""

    left = 10**9

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise MemoryError("no more")
        return super().forward(*args, **options)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_drafter_that_fails_leaves_engine_and_model_as_they_were(
    target: Target, prompt: list[int], text: list[int], steps: int
) -> None:
    engine = Failing(target, 128)
    engine.prefill(prompt[:-1])
    state = DraftState(list(prompt), engine, TokenSampler(GREEDY, target.device, coupled=True))
    engine.left = steps
    drafter = skip(target, "hardly ever accepted", 4)
    with pytest.raises(MemoryError):
        drafter.propose(state, 10)
    assert engine.position == len(prompt) - 1
    assert all("forward" not in module.__dict__ for module in target.model.modules())
    engine.left = 10**9
    rounds = decode_on(engine, prompt, drafter)
    assert prompt + emitted(rounds) == text


def decode_on(engine: Engine, prompt: list[int], drafter: Drafter) -> list[Round]:
    engine.rewind(0)
    return list(decode(engine, prompt, drafter, GREEDY, Limits(LENGTH, 256)))


def test_decoding_left_half_way_does_not_disturb_the_next(
    target: Target, prompt: list[int], text: list[int]
) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=4)
    left: Iterator[Round] = generate_rounds(target, prompt, profile=profile, max_new_tokens=9)
    next(left)
    rounds = list(generate_rounds(target, prompt, profile=profile, max_new_tokens=LENGTH))
    assert prompt + emitted(rounds) == text


@pytest.mark.parametrize("gamma", [1, 3, 8])
def test_statistics_add_up(target: Target, prompt: list[int], gamma: int) -> None:
    rounds = run(target, prompt, skip(target, "sometimes accepted", gamma, 0.3))
    total = Statistics.of(rounds)
    assert total.new_tokens == LENGTH == total.accepted + total.target_forwards
    assert total.target_forwards == len(rounds)
    assert total.drafted == total.draft_forwards == sum(len(r.drafted) for r in rounds)
    assert total.acceptance_rate == total.accepted / total.drafted
    assert total.mean_acceptance_length == LENGTH / len(rounds)
    assert sum(total.accepted_at) == total.accepted
    assert len(total.acceptance_by_position) == max(len(r.drafted) for r in rounds)
    assert list(total.acceptance_by_position) == sorted(total.acceptance_by_position)[::-1]
    assert total.stop_reason == "length"


def test_statistics_of_plain_decoding(target: Target, prompt: list[int]) -> None:
    total = Statistics.of(run(target, prompt, NoDrafter()))
    assert (total.new_tokens, total.target_forwards, total.drafted) == (LENGTH, LENGTH, 0)
    assert total.acceptance_rate is None
    assert total.mean_acceptance_length == 1.0


def test_sampled_decoding_repeats_with_its_seed_only(target: Target, prompt: list[int]) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=3)
    texts = [
        [t.id for t in generate(target, prompt, profile=profile, temperature=2.0, seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_temperature_near_zero_is_nearly_greedy(
    target: Target, prompt: list[int], text: list[int]
) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=3)
    options = replace(GREEDY, temperature=1e-6)
    rounds = generate_rounds(
        target, prompt, profile=profile, max_new_tokens=LENGTH, options=options
    )
    assert prompt + emitted(list(rounds)) == text


def proposal(tokens: list[int], limit: int = 10, **settings: int) -> tuple[int, ...]:
    drafter = PromptLookupDrafter(**settings)
    state = DraftState(tokens, None, None)  # type: ignore[arg-type]
    return drafter.propose(state, limit).tokens


def test_prompt_lookup_copies_what_followed() -> None:
    assert proposal([1, 2, 3, 4, 5, 1, 2]) == (3, 4, 5, 1, 2)
    assert proposal([1, 2, 3, 4, 5, 1, 2], gamma=2) == (3, 4)
    assert proposal([1, 2, 3, 4, 5, 1, 2], limit=1) == (3,)
    assert proposal([1, 2, 3, 4, 5, 1, 2], limit=0) == ()
    assert proposal([1, 2, 3]) == ()
    assert proposal([1]) == ()


def test_prompt_lookup_prefers_long_matches_then_late_ones() -> None:
    assert proposal([1, 2, 9, 5, 2, 8, 1, 2], gamma=1) == (9,)
    assert proposal([2, 9, 5, 2, 8, 1, 2], gamma=1) == (8,)


def test_prompt_lookup_index_grown_step_by_step_is_the_same() -> None:
    tokens = [t % 5 for prompt in tiny_prompts(8) for t in prompt]
    drafter = PromptLookupDrafter()
    for end in range(1, len(tokens)):
        state = DraftState(tokens[:end], None, None)  # type: ignore[arg-type]
        assert drafter.propose(state, 10).tokens == proposal(tokens[:end])
