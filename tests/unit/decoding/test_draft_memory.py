"""Decoding with a memory of earlier texts: the same text, which is added at its end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tiny import byte_tokenizer, tiny_llama, tiny_target

import skipopt
from skipopt.draft_memory.memory import DraftMemory
from skipopt.errors import UsageError
from skipopt.models.target import Target
from skipopt.rounds import Round

PROMPT = [5, 9, 2, 7, 5, 9]
LENGTH = 40


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(vocabulary=257), byte_tokenizer())


@pytest.fixture(scope="module")
def text(target: Target) -> list[int]:
    """Prompt and greedy text."""
    return PROMPT + emitted(decoded(target, "plain"))


def decoded(target: Target, method: str = "suffix", **options: Any) -> Iterator[Round]:
    options = {"max_new_tokens": LENGTH, **options}
    return skipopt.generate_rounds(target, PROMPT, method=method, **options)


def emitted(rounds: Iterator[Round]) -> list[int]:
    return [token for each in rounds for token in each.emitted]


def kept(memory: DraftMemory) -> list[list[int]]:
    return [list(each) for each in memory.texts()]


def test_the_second_time_the_text_is_drafted_from_the_memory(
    target: Target, text: list[int]
) -> None:
    memory = DraftMemory()
    first = list(decoded(target, memory=memory))
    second = list(decoded(target, memory=memory))
    assert PROMPT + emitted(iter(first)) == PROMPT + emitted(iter(second)) == text
    assert len(second) < len(first) / 2
    assert "remembered" in {source for each in second for source in each.sources}
    assert kept(memory) == [text]


def test_wrong_texts_change_no_token(target: Target, text: list[int]) -> None:
    generator, memory = random.Random(0), DraftMemory()
    for start in range(len(text) - 4):
        wrong = [generator.randrange(257) for _ in range(8)]
        memory.add([*text[start : start + 4], *wrong])
    end = text[25]
    memory.add([*text[:15], end, end, *text[15:20], end])
    assert PROMPT + emitted(decoded(target, memory=memory)) == text
    ending = replace(target, eos_ids=frozenset({end}))
    plain = emitted(decoded(ending, "plain"))
    assert emitted(decoded(ending, memory=memory)) == plain
    assert plain[-1] == end


@pytest.mark.parametrize("method", ["plain", "suffix"])
def test_the_text_is_added_when_it_ends_and_not_before(target: Target, method: str) -> None:
    memory = DraftMemory()
    rounds = decoded(target, method, memory=memory)
    tokens = list(PROMPT)
    for each in rounds:
        assert len(memory) == 0
        tokens += each.emitted
    assert kept(memory) == [tokens]


def test_a_text_that_is_left_early_is_added_too(target: Target) -> None:
    memory = DraftMemory()
    rounds: Any = decoded(target, memory=memory)
    begun = [*PROMPT, *next(rounds).emitted]
    rounds.close()
    assert kept(memory) == [begun]


def test_tokens_pieces_and_transformers_take_a_memory(target: Target) -> None:
    memories = [DraftMemory() for _ in range(3)]
    given: dict[str, Any] = {"method": "suffix", "max_new_tokens": 9}
    tokens = [t.id for t in skipopt.generate(target, PROMPT, memory=memories[0], **given)]
    list(skipopt.stream_generate(target, PROMPT, memory=memories[1], **given))
    decoder = skipopt.decoder(method="suffix", memory=memories[2])
    ids = torch.tensor([PROMPT])
    target.model.generate(ids, custom_generate=decoder, max_new_tokens=9, trust_remote_code=True)
    assert [kept(each) for each in memories] == [[PROMPT + tokens]] * 3


def test_texts_of_another_tokenizer_are_refused(target: Target) -> None:
    memory = DraftMemory(tokenizer="sha256:0")
    with pytest.raises(UsageError, match="tokenizer"):
        decoded(target, memory=memory)
    memory = DraftMemory()
    memory.add([1, 2, 257])
    with pytest.raises(UsageError, match="tokenizer"):
        decoded(target, memory=memory)
