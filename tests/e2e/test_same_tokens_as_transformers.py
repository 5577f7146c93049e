"""Greedy decoding with drafts emits the same tokens as `generate` of transformers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from support.tiny import hf_greedy, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.decoding.api import generate_rounds
from skipopt.masks import SkipMask
from skipopt.models.loading import builtin_folder
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics


def random_mask(depth: int, number: int, share: float = 0.3) -> SkipMask:
    """About a third of the sublayers, at least one."""
    rng = Random(number)
    tosses = [rng.random() < share for _ in range(2 * depth)]
    tosses[rng.randrange(2 * depth)] = True
    return SkipMask.from_bits(tosses)


def decode_all(
    target: Target, prompts: list[list[int]], mask: SkipMask, gamma: int, count: int
) -> tuple[list[list[int]], Statistics]:
    profile = Profile.by_hand(target, attention=mask.attention, mlp=mask.mlp, gamma=gamma)
    texts, total = [], Statistics()
    for prompt in prompts:
        with target.runtime.capture_immediately():  # drafts of short texts would not pay
            rounds = list(generate_rounds(target, prompt, profile=profile, max_new_tokens=count))
        texts.append([token for each in rounds for token in each.emitted])
        for each in rounds:
            total.add(each)
    return texts, total


@pytest.fixture(scope="module")
def small() -> tuple[Target, list[list[int]], list[list[int]]]:
    """A random model, 20 prompts, and 2000 tokens of its own."""
    target = tiny_target(tiny_llama(layers=2, vocabulary=300, gain=0.6))
    prompts = tiny_prompts(20, vocabulary=300)
    return target, prompts, [hf_greedy(target, prompt, 100) for prompt in prompts]


@pytest.mark.slow
def test_the_texts_are_varied(small: tuple[Target, list[list[int]], list[list[int]]]) -> None:
    """Equal texts would prove little if all of them were the same token repeated."""
    *_, references = small
    assert sum(map(len, references)) == 2000
    assert len({token for text in references for token in text}) > 50


@pytest.mark.slow
@pytest.mark.parametrize(("number", "gamma"), [(0, 3), (1, 8), (2, 1)])
def test_small_model_is_lossless(
    small: tuple[Target, list[list[int]], list[list[int]]], number: int, gamma: int
) -> None:
    target, prompts, references = small
    mask = random_mask(target.depth, number)
    texts, total = decode_all(target, prompts, mask, gamma, 100)
    assert texts == references
    assert 0 < total.accepted < total.drafted


@pytest.fixture(scope="module")
def builtin() -> tuple[Target, list[list[int]], list[list[int]]]:
    if not (Path(builtin_folder()) / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained")
    target = skipopt.load("builtin")
    texts = ("def area(width, height):", "The house stands", "import ")
    prompts = [target.tokenizer(text)["input_ids"] for text in texts]
    eos = list(target.eos_ids)
    return target, prompts, [hf_greedy(target, prompt, 24, eos) for prompt in prompts]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "gamma"), [(0, 3), (1, 8), (2, 1)])
def test_builtin_model_is_lossless(
    builtin: tuple[Target, list[list[int]], list[list[int]]], number: int, gamma: int
) -> None:
    target, prompts, references = builtin
    mask = random_mask(target.depth, number, share=0.15)
    texts, total = decode_all(target, prompts, mask, gamma, 24)
    assert texts == references
    assert 0 < total.accepted < total.drafted
