"""Heads are trained on the hidden states and the tokens that follow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny import (
    tiny_prompts,
    tiny_target,
)
from support.training import (
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
from skipopt.models.target import Target
from skipopt.training.heads import HeadLearner, read_states, train_heads
from skipopt.training.loop import Acceptance, TrainConfig
from skipopt.training.self_text import SelfText, make_pool


def counting_target(size: int = 64) -> Target:
    """A model whose next token after n is n + 1."""
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


def test_head_i_is_trained_on_the_token_i_plus_2_positions_later() -> None:
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
