"""Training of heads and mask tokens: right labels, a model left alone, breaks without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny import (
    byte_tokenizer,
    hf_greedy,
    tiny_gpt2,
    tiny_llama,
    tiny_prompts,
    tiny_target,
)
from support.training import (
    BODY,
    drafted,
    pool_of,
    quiet,
    ticking,
)

from skipopt.drafting.checkpoints.heads import (
    FeedForwardSettings,
    MedusaSettings,
    final_states,
    load_heads,
    make_heads,
)
from skipopt.drafting.checkpoints.mask_tokens import MaskTokens, make_mask_tokens
from skipopt.errors import ModelError, PromptError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.training import self_text
from skipopt.training.heads import HeadLearner, read_states, train_heads
from skipopt.training.loop import Acceptance, TrainConfig
from skipopt.training.mask_tokens import (
    SlotLearner,
    attention_masks,
    check_slots,
    read_group,
    spread,
)
from skipopt.training.self_text import Pool, SelfGenerator, SelfText, cut, make_pool, shorten


def counting_target(size: int = 64) -> Target:
    """A model that says n + 1 after n, whatever was said before."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(torch.eye(size).roll(1, 0))
    return tiny_target(model)


def test_acceptance_of_single_tokens_and_of_chains() -> None:
    matched = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]], dtype=torch.bool)
    found = Acceptance.of(matched)
    assert found.positions == 4
    assert found.single == (0.75, 0.75, 0.75)
    assert found.chain == (0.75, 0.5, 0.25)
    assert found.tokens_per_forward == 1 + 0.75 + 0.5 + 0.25


def test_texts_are_the_models_own_greedy_ones(target: Target) -> None:
    pool = pool_of(7)
    texts = SelfGenerator(target, pool, new_tokens=8, batch=3).held_out()
    assert len(texts) == 2
    for text, prompt in zip(texts, pool.held_out, strict=True):
        expected = shorten(hf_greedy(target, list(prompt), 8), frozenset())
        assert text == SelfText((*prompt, *expected), len(prompt))


def test_a_batch_is_always_the_same_and_leaves_chance_alone(target: Target) -> None:
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


def test_text_ends_with_its_end_or_where_it_loops() -> None:
    assert shorten([5, 6, 0, 7, 0], frozenset({0})) == (5, 6, 0)
    assert shorten([5, 6, *[1, 2] * 10], frozenset({0})) == (5, 6, 1, 2)
    assert shorten([5, 6, 7], frozenset()) == (5, 6, 7)


def test_a_model_that_ends_its_texts(target: Target) -> None:
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


def test_no_prompt_is_on_both_sides(target: Target) -> None:
    pool = make_pool(target, tiny_prompts(20))
    assert len(pool.training) + len(pool.held_out) == 20
    assert len(pool.held_out) == 3
    assert not set(pool.training) & set(pool.held_out)
    assert pool == make_pool(target, tiny_prompts(20))
    assert pool.digest != make_pool(target, tiny_prompts(20), seed=1).digest
    with pytest.raises(PromptError, match="two"):
        make_pool(target, tiny_prompts(1))


def test_a_file_of_the_corpus_serves_one_side(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_head_i_learns_the_token_i_plus_2_places_further() -> None:
    target = counting_target()
    texts = [SelfText(tuple((start + i) % 64 for i in range(20)), 5) for start in range(0, 64, 3)]
    states = read_states(target, texts, reach=4)
    said = states.tokens[states.positions]
    labels = states.labels(states.positions, 4)
    assert torch.equal(labels, torch.stack([(said + step) % 64 for step in (2, 3, 4)]))


@pytest.mark.parametrize("settings", [FeedForwardSettings(3, 64), MedusaSettings(3, 1)])
def test_heads_learn_to_count(
    settings: FeedForwardSettings | MedusaSettings, tmp_path: Path
) -> None:
    target = counting_target()
    pool = make_pool(target, [[start, start + 1] for start in range(60)])
    plan = TrainConfig(minutes=3, learning_rate=0.03, tokens=2000, new_tokens=24)
    path = tmp_path / "heads.safetensors"
    facts = train_heads(target, pool, settings, plan, path, quiet, ticking())
    assert facts["acceptance"] == [1.0, 1.0, 1.0]
    assert facts["tokens_per_forward"] == 4.0
    heads = load_heads(path, target)
    guesses = heads.logits(final_states(target, torch.tensor([[7]])), target).argmax(-1)
    assert guesses.flatten().tolist() == [9, 10, 11]


def test_states_are_those_after_each_token(target: Target) -> None:
    texts = [SelfText(tuple(p), n) for n, p in enumerate(tiny_prompts(5, 12, 20), 1)]
    states = read_states(target, texts, reach=3)
    ordered = sorted(texts, key=lambda text: len(text.tokens))
    first = 0
    for text in ordered:
        start, size = text.written_from - 1, len(text.tokens) - text.written_from + 1
        own = slice(first, first + size)
        with torch.no_grad():
            expected = final_states(target, torch.tensor([text.tokens]))[0, start:]
        torch.testing.assert_close(states.hidden[own], expected)
        assert states.tokens[own].tolist() == list(text.tokens[start:])
        within = [int(p) - first for p in states.positions if first <= p < first + size]
        assert within == list(range(size - 3))
        first += size
    assert len(states.tokens) == first


def test_heads_are_measured_against_the_text(target: Target) -> None:
    texts = [SelfText(tuple(prompt), 3) for prompt in tiny_prompts(3, 12, 14)]
    heads = make_heads(MedusaSettings(2, 1), target)
    learner = HeadLearner(target, heads)
    learner.prepare(texts, texts)
    with torch.no_grad():
        found = learner.matched()
        expected = []
        for text in sorted(texts, key=lambda text: len(text.tokens)):
            guesses = target.model(torch.tensor([text.tokens])).logits[0].argmax(-1).tolist()
            for place in range(2, len(text.tokens) - 3):
                said = text.tokens[place + 2 : place + 4]
                expected.append([guesses[place] == token for token in said])
    assert found.T.tolist() == expected


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("body", [SkipMask.empty(3), BODY])
def test_slots_are_trained_just_as_they_draft(make: Callable[[], Any], body: SkipMask) -> None:
    target = tiny_target(make())
    tokens = learned(target, body)
    learner = SlotLearner(target, tokens)
    texts = [SelfText(tuple(prompt), 4) for prompt in tiny_prompts(3, 14, 20)]
    learner.prepare(texts, texts)
    group = read_group(target, texts)
    cuts = torch.tensor([[3, 7, 9], [3, 4, 5], [9, 9, 3]])
    with torch.no_grad():
        logits, labels = learner._predict(group, cuts)
    for b, text in enumerate(texts):
        for c, place in enumerate(cuts[b].tolist()):
            expected = drafted(target, tokens, text.tokens[: place + 1])
            torch.testing.assert_close(logits[b, c], expected, atol=1e-4, rtol=1e-4)
            assert labels[b, c].tolist() == list(text.tokens[place + 1 : place + 5])


def learned(target: Target, body: SkipMask) -> MaskTokens:
    """Mask tokens that have learned something."""
    tokens = make_mask_tokens(target, 3, 4, body)
    generator = torch.Generator().manual_seed(0)
    for parameter in tokens.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return tokens


def test_gradients_reach_the_slots_and_nothing_else(target: Target) -> None:
    tokens = learned(target, BODY)
    learner = SlotLearner(target, tokens)
    texts = [SelfText(tuple(prompt), 4) for prompt in tiny_prompts(3, 14, 20)]
    learner.prepare(texts, texts)
    target.model.requires_grad_(False)
    learner.loss(0, torch.Generator().manual_seed(0)).backward()
    target.model.requires_grad_(True)
    assert tokens.embeddings.grad is not None
    assert (tokens.embeddings.grad.abs().amax(1) > 0).all()
    assert all(parameter.grad is None for parameter in target.model.parameters())


def test_windows_of_sliding_layers_hide_far_text() -> None:
    config = SimpleNamespace(
        sliding_window=4,
        layer_types=["full_attention", "sliding_attention"],
        _attn_implementation="sdpa",
    )
    config.get_text_config = lambda decoder: config
    target: Any = SimpleNamespace(model=SimpleNamespace(config=config, dtype=torch.float32))
    positions = torch.tensor([[[6, 7], [8, 9]]])  # (1, 2, 2)
    masks = attention_masks(target, positions, length=10)
    full, near = (masks[kind][0, 0] == 0 for kind in config.layer_types)
    assert full[1].tolist() == [True] * 6 + [False] * 4 + [True, True, False, False]
    assert full[2].tolist() == [True] * 8 + [False] * 2 + [False, False, True, False]
    assert near[1].nonzero()[:, 0].tolist() == [4, 5, 10, 11]
    assert near[3].nonzero()[:, 0].tolist() == [6, 7, 12, 13]


def test_a_model_that_finds_positions_itself_takes_no_slots() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    config.alibi = True
    model = SimpleNamespace(config=BloomForCausalLM(config).config)
    target: Any = SimpleNamespace(model=model, architecture="BloomForCausalLM")
    with pytest.raises(ModelError, match="BloomForCausalLM"):
        check_slots(target)


def test_spread_takes_positions_evenly() -> None:
    assert spread(range(10, 20), 5) == [11, 13, 15, 17, 19]
    assert spread(range(3, 4), 3) == [3, 3, 3]


def test_texts_too_short_to_learn_from(target: Target) -> None:
    texts = [SelfText((1, 2, 3, 4), 2)]
    for learner in (
        HeadLearner(target, make_heads(MedusaSettings(4, 1), target)),
        SlotLearner(target, make_mask_tokens(target, 4, 0, BODY)),
    ):
        with pytest.raises(PromptError, match="5 tokens"):
            learner.prepare(texts, texts)
