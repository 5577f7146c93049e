"""The KV cache and the engine during decoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.scripted_drafter import (
    GREEDY,
    LENGTH,
    emitted,
    skip,
)

from skipopt.decoding.api import (
    generate_rounds,
)
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits, new_engine
from skipopt.drafting.base import Drafter, DraftState
from skipopt.errors import PromptError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.runtime.engine import Engine
from skipopt.sampling import TokenSampler

# --- the cache


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


def test_a_full_cache_is_an_error(target: Target) -> None:
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
    """Fails after `left` more steps."""

    left = 10**9

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise MemoryError("no more")
        return super().forward(*args, **options)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_failing_drafter_leaves_engine_and_model_unchanged(
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


def test_an_abandoned_decoding_does_not_change_the_next(
    target: Target, prompt: list[int], text: list[int]
) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=4)
    left: Iterator[Round] = generate_rounds(target, prompt, profile=profile, max_new_tokens=9)
    next(left)
    rounds = list(generate_rounds(target, prompt, profile=profile, max_new_tokens=LENGTH))
    assert prompt + emitted(rounds) == text
