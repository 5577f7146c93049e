"""`generate_batch`: texts, stop strings, seeds, statistics, and `generate` of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import byte_tokenizer, tiny_llama, tiny_target

import skipopt
from skipopt.decoding import batch_loop
from skipopt.errors import PromptError, UsageError
from skipopt.models.target import Target
from skipopt.profile import Profile

PROMPTS = ["def f(a, b):", "x", "a longer prompt, which repeats a longer prompt, which repeats"]
LENGTH = 40


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(vocabulary=257), byte_tokenizer())


@pytest.fixture(scope="module")
def profile(target: Target) -> Profile:
    return Profile.by_hand(target, attention=[1], mlp=[2], gamma=3)


def test_texts_are_those_of_complete(target: Target, profile: Profile) -> None:
    made = skipopt.generate_batch(target, PROMPTS, profile=profile, max_new_tokens=LENGTH)
    assert len(made) == 3
    for text, prompt in zip(made, PROMPTS, strict=True):
        alone = skipopt.complete(target, prompt, profile=profile, max_new_tokens=LENGTH)
        assert (text.text, text.tokens) == (alone.text, alone.tokens)
        assert text.finish_reason == alone.finish_reason
    assert made.statistics.new_tokens == sum(len(text.tokens) for text in made)
    assert made.statistics.batch_size == 3
    assert sum(made.statistics.costs().values()) > 0
    assert "3 texts" in repr(made)


def test_a_stop_string_ends_one_text(target: Target) -> None:
    plain = skipopt.generate_batch(target, PROMPTS, max_new_tokens=LENGTH)
    stop = next(char for char in plain[1].text[4:] if char.isascii())
    made = skipopt.generate_batch(target, PROMPTS, max_new_tokens=LENGTH, stop=stop)
    for text, prompt in zip(made, PROMPTS, strict=True):
        alone = skipopt.complete(target, prompt, max_new_tokens=LENGTH, stop=stop)
        assert (text.text, text.finish_reason) == (alone.text, alone.finish_reason)
    assert made[1].finish_reason == "stop"


def test_each_text_has_a_seed_of_its_own(target: Target, profile: Profile) -> None:
    options: Any = {"temperature": 1.0, "max_new_tokens": 16, "profile": profile}
    same = [PROMPTS[0]] * 3
    made = skipopt.generate_batch(target, same, seed=4, **options)
    for i, text in enumerate(made):
        assert text.tokens == skipopt.complete(target, same[i], seed=4 + i, **options).tokens
    assert len({tuple(text.tokens) for text in made}) == 3
    given = skipopt.generate_batch(target, same, seeds=[6, 6, 5], **options)
    assert given[0].tokens == given[1].tokens == made[2].tokens
    assert given[2].tokens == made[1].tokens


def test_texts_are_remembered_at_their_end(target: Target) -> None:
    memory = skipopt.DraftMemory()
    first = skipopt.generate_batch(target, PROMPTS, memory=memory, max_new_tokens=LENGTH)
    again = skipopt.generate_batch(
        target, PROMPTS, method="suffix", memory=memory, max_new_tokens=LENGTH
    )
    assert [text.tokens for text in again] == [text.tokens for text in first]
    assert "remembered" in again[1].origins


@pytest.mark.parametrize(
    ("prompts", "options", "error"),
    [
        ("one prompt", {}, UsageError),
        ([], {}, UsageError),
        ([3, 4, 5], {}, UsageError),
        ([{"role": "user", "content": "Hi"}], {}, UsageError),
        (PROMPTS, {"seeds": [1]}, UsageError),
        (PROMPTS, {"method": "jacobi"}, UsageError),
        (PROMPTS, {"batch_size": 0}, UsageError),
        (["x", ""], {}, PromptError),
    ],
)
def test_what_is_no_batch_is_refused(
    target: Target, prompts: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        skipopt.generate_batch(target, prompts, **options)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of texts that were decoded together, round by round."""
    seen: list[int] = []
    decode_round = batch_loop.decode_round

    def counted(engine: Any, texts: Any, *rest: Any) -> Any:
        seen.append(len(texts))
        return decode_round(engine, texts, *rest)

    monkeypatch.setattr(batch_loop, "decode_round", counted)
    return seen


def in_transformers(model: Any, **options: Any) -> list[list[int]]:
    """New tokens of two prompts, the shorter one padded on the left."""
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 7, 8]])
    settings: Any = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **options}
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    found: list[list[int]] = model.generate(ids, attention_mask=mask, **settings)[:, 4:].tolist()
    return found


@pytest.mark.parametrize("method", ["plain", "prompt-lookup", "layer-skip"])
def test_generate_of_transformers_decodes_a_batch_together(
    profile: Profile, target: Target, batches: list[int], method: str
) -> None:
    decoder = skipopt.decoder(profile, method)
    found = in_transformers(target.model, custom_generate=decoder)
    assert found == in_transformers(target.model)
    assert batches[0] == 2
    assert decoder.last_statistics is not None
    assert decoder.last_statistics.rounds.new_tokens == 24


def test_other_methods_decode_its_prompts_one_after_another(
    profile: Profile, target: Target, batches: list[int]
) -> None:
    decoder = skipopt.decoder(profile, "rsd-c")
    expected = in_transformers(target.model)
    assert in_transformers(target.model, custom_generate=decoder) == expected
    assert batches == []


def test_processors_of_others_get_one_text_after_another(
    target: Target, batches: list[int]
) -> None:
    lengths: list[int] = []

    def noted(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        lengths.append(ids.shape[1])
        return scores

    in_transformers(
        target.model, custom_generate=skipopt.decoder(method="plain"), logits_processor=[noted]
    )
    assert batches == []
    assert lengths == [*range(4, 16)] * 2
