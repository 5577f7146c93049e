"""Mask tokens are trained as they draft, and only their embeddings change."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny import (
    tiny_gpt2,
    tiny_llama,
    tiny_prompts,
    tiny_target,
)
from support.training import (
    BODY,
    drafted,
)

from skipopt.drafting.checkpoints.mask_tokens import MaskTokens, make_mask_tokens
from skipopt.errors import ModelError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.training.mask_tokens import (
    SlotLearner,
    attention_masks,
    check_slots,
    read_group,
    spread,
)
from skipopt.training.self_text import SelfText


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("body", [SkipMask.empty(3), BODY])
def test_mask_tokens_are_trained_as_they_draft(make: Callable[[], Any], body: SkipMask) -> None:
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


def test_gradients_reach_only_the_mask_tokens(target: Target) -> None:
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


def test_sliding_windows_hide_distant_text() -> None:
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


def test_a_model_that_computes_its_own_positions_is_refused() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    config.alibi = True
    model = SimpleNamespace(config=BloomForCausalLM(config).config)
    target: Any = SimpleNamespace(
        model=model, architecture="BloomForCausalLM", keeps_own_cache=False
    )
    with pytest.raises(ModelError, match="BloomForCausalLM"):
        check_slots(target)


def test_spread_takes_positions_evenly() -> None:
    assert spread(range(10, 20), 5) == [11, 13, 15, 17, 19]
    assert spread(range(3, 4), 3) == [3, 3, 3]
