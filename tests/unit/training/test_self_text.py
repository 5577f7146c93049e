"""Text written by the model itself for training, and prompts cut for it."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny import (
    byte_tokenizer,
    hf_greedy,
    tiny_prompts,
)
from support.training import (
    BODY,
    pool_of,
)

from skipopt.drafting.checkpoints.heads import (
    MedusaSettings,
    make_heads,
)
from skipopt.drafting.checkpoints.mask_tokens import make_mask_tokens
from skipopt.errors import PromptError
from skipopt.models.target import Target
from skipopt.training import self_text
from skipopt.training.heads import HeadLearner
from skipopt.training.mask_tokens import (
    SlotLearner,
)
from skipopt.training.self_text import Pool, SelfGenerator, SelfText, cut, make_pool, shorten


def test_texts_are_the_models_own_greedy_ones(target: Target) -> None:
    pool = pool_of(7)
    texts = SelfGenerator(target, pool, new_tokens=8, batch=3).held_out()
    assert len(texts) == 2
    for text, prompt in zip(texts, pool.held_out, strict=True):
        expected = shorten(hf_greedy(target, list(prompt), 8), frozenset())
        assert text == SelfText((*prompt, *expected), len(prompt))


def test_batches_are_reproducible_and_keep_the_random_state(target: Target) -> None:
    writer = SelfGenerator(target, pool_of(9), new_tokens=6, batch=4)
    state = torch.random.get_rng_state()
    sampled = writer.write(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [writer.write(n) for n in range(4)] == [writer.write(n) for n in range(4)]
    assert writer.write(3) == sampled != SelfGenerator(target, pool_of(9), 6, 4, seed=1).write(3)


def test_no_prompt_is_continued_greedily_twice(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[tuple[int, ...], float]] = []

    def keep(target: Any, prompts: Any, new_tokens: int, temperature: float, seed: int) -> Any:
        asked.extend((prompt, temperature) for prompt in prompts)
        return [[1, 2, 3] for _ in prompts]

    monkeypatch.setattr(self_text, "_continue", keep)
    for number, batch in ((25, 4), (5, 8)):
        asked.clear()
        pool = pool_of(number)
        writer = SelfGenerator(target, pool, new_tokens=3, batch=batch)
        for n in range(12):
            writer.write(n)
        greedy = [prompt for prompt, temperature in asked if not temperature]
        assert len(greedy) == len(set(greedy)) > 0
        assert {temperature for _, temperature in asked} == {0.0, 0.6, 0.8, 1.0}
        assert not set(pool.held_out) & {prompt for prompt, _ in asked}


def test_text_ends_at_an_end_token_or_where_it_loops() -> None:
    assert shorten([5, 6, 0, 7, 0], frozenset({0})) == (5, 6, 0)
    assert shorten([5, 6, *[1, 2] * 10], frozenset({0})) == (5, 6, 1, 2)
    assert shorten([5, 6, 7], frozenset()) == (5, 6, 7)


def test_text_of_a_model_ends_with_its_end_token(target: Target) -> None:
    ended = SimpleNamespace(
        model=target.model,
        device=target.device,
        context_limit=256,
        eos_ids=frozenset({hf_greedy(target, [3, 4, 5], 4)[2]}),
    )
    pool = Pool(((3, 4, 5),), ((3, 4, 5), (9, 8, 7, 6, 5)))
    first = SelfGenerator(ended, pool, new_tokens=6).held_out()[0]  # type: ignore[arg-type]
    assert len(first.tokens) <= 3 + 3
    assert first.tokens[-1] in ended.eos_ids


def test_prompts_are_cut_to_the_context_at_their_beginning(target: Target) -> None:
    long = tuple(Random(0).choices(range(64), k=300))
    text = SelfGenerator(target, Pool((), (long,)), new_tokens=6).held_out()[0]
    assert text.written_from == 256 - 6
    assert text.tokens[: text.written_from] == long[-250:]
    with pytest.raises(PromptError, match="256"):
        SelfGenerator(target, Pool((), (long,)), new_tokens=256)


def test_no_prompt_is_in_both_training_and_held_out_parts(target: Target) -> None:
    pool = make_pool(target, tiny_prompts(20))
    assert len(pool.training) + len(pool.held_out) == 20
    assert len(pool.held_out) == 3
    assert not set(pool.training) & set(pool.held_out)
    assert pool == make_pool(target, tiny_prompts(20))
    assert pool.digest != make_pool(target, tiny_prompts(20), seed=1).digest
    with pytest.raises(PromptError, match="two"):
        make_pool(target, tiny_prompts(1))


def test_a_file_of_the_corpus_is_in_one_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer()
    texts = {f"{c}.py": c * 400 for c in "abcdefghijklmnop"}
    monkeypatch.setattr(self_text, "read_corpus", lambda: (texts, {"secret.py": "z" * 400}))
    target: Any = SimpleNamespace(model_id="builtin", tokenizer=tokenizer)
    pool = make_pool(target, [[1, 2], [3, 4]])
    sides = [{prompt[0] for prompt in side} for side in (pool.training, pool.held_out)]
    assert not sides[0] & sides[1]
    letters = {tokenizer.convert_tokens_to_ids(c) for c in "abcdefghijklmnop"}
    assert sides[0] | sides[1] == letters | {1, 3}


def test_snippets_are_whole_and_of_varying_length() -> None:
    ids = list(range(1000))
    snippets = cut(ids, Random(0))
    joined = [token for snippet in snippets for token in snippet]
    assert joined == ids[: len(joined)]
    assert len(ids) - len(joined) < self_text.SHORTEST
    assert len({len(snippet) for snippet in snippets}) > 3


def test_texts_too_short_to_learn_from(target: Target) -> None:
    texts = [SelfText((1, 2, 3, 4), 2)]
    for learner in (
        HeadLearner(target, make_heads(MedusaSettings(4, 1), target)),
        SlotLearner(target, make_mask_tokens(target, 4, 0, BODY)),
    ):
        with pytest.raises(PromptError, match="5 tokens"):
            learner.prepare(texts, texts)
