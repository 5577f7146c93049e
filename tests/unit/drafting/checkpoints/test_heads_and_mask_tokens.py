"""The arithmetic of heads and mask tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.checkpoints import BODY, SETTINGS, random_heads, random_tokens
from support.tiny import tiny_gpt2, tiny_llama, tiny_prompts, tiny_target
from torch.nn.functional import relu, silu

from skipopt.drafting.checkpoints.heads import (
    HeadSettings,
    MedusaSettings,
    final_states,
    make_heads,
    projection,
)
from skipopt.drafting.checkpoints.mask_tokens import (
    MaskTokens,
    make_mask_tokens,
)
from skipopt.models.target import Target


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_untrained_heads_give_the_models_own_logits(
    settings: HeadSettings, make: Callable[[], Any]
) -> None:
    target = tiny_target(make())
    ids = torch.tensor(tiny_prompts(2, 6, 6))
    with torch.no_grad():
        expected = target.model(ids).logits
        found = make_heads(settings, target).logits(final_states(target, ids), target)
    assert found.shape == (3, *expected.shape)
    for logits in found:
        torch.testing.assert_close(logits, expected)


def test_heads_receive_the_input_of_the_output_projection(target: Target) -> None:
    ids = torch.tensor(tiny_prompts(1, 5, 5))
    seen: list[torch.Tensor] = []
    handle = projection(target).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        target.model(ids)
        handle.remove()
        found = final_states(target, ids)
    assert torch.equal(found, seen[0])
    assert "forward" not in vars(projection(target))


def test_the_ffn_is_one_network_with_a_residual_to_each_head(
    target: Target, hidden: torch.Tensor
) -> None:
    heads = random_heads(SETTINGS[0], target)
    weights = dict(heads.named_parameters())
    state = hidden[1, 3]
    inner = relu(weights["first.weight"] @ state + weights["first.bias"])
    assert inner.shape == (3 * 8,)
    change = weights["second.weight"] @ inner + weights["second.bias"]
    expected = torch.stack([state + part for part in change.chunk(3)])
    torch.testing.assert_close(heads.states(hidden)[:, 1, 3], expected)


def test_medusa_heads_are_residual_blocks(target: Target, hidden: torch.Tensor) -> None:
    heads = random_heads(SETTINGS[1], target)
    weights = dict(heads.named_parameters())
    for head in range(3):
        state = hidden[0, 2]
        for block in range(2):
            name = f"heads.{head}.{block}"
            state = state + silu(weights[f"{name}.weight"] @ state + weights[f"{name}.bias"])
        torch.testing.assert_close(heads.states(hidden)[head, 0, 2], state)


def test_no_two_medusa_heads_or_blocks_are_one_module(
    target: Target, hidden: torch.Tensor
) -> None:
    heads = make_heads(MedusaSettings(3, blocks=2), target)
    modules = [m for m in heads.modules() if isinstance(m, torch.nn.Linear)]
    assert len({id(m) for m in modules}) == len(modules) == 6
    assert len({p.data_ptr() for p in heads.parameters()}) == 12
    before = heads.states(hidden)
    modules[2].bias.data += 1.0  # the first block of the second head
    changed = (heads.states(hidden) != before).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("settings", SETTINGS)
def test_heads_take_states_of_any_shape(
    settings: HeadSettings, target: Target, hidden: torch.Tensor
) -> None:
    heads = random_heads(settings, target)
    one = heads.logits(hidden[0, 0], target)
    assert one.shape == (3, projection(target).weight.shape[0])
    torch.testing.assert_close(heads.logits(hidden, target)[:, 0, 0], one)


@pytest.mark.parametrize("settings", SETTINGS)
def test_heads_return_states_in_the_precision_given(
    settings: HeadSettings, target: Target, hidden: torch.Tensor
) -> None:
    heads = random_heads(settings, target)
    assert heads.states(hidden.bfloat16()).dtype == torch.bfloat16


def test_mask_tokens_follow_the_tokens_in_order(target: Target) -> None:
    tokens = random_tokens(target, rank=0)
    embedded = torch.zeros(2, 4, 32)
    found = tokens.after(embedded)
    assert found.shape == (2, 4 + 3, 32)
    assert torch.equal(found[:, :4], embedded)
    for row in found:
        assert torch.equal(row[4:], tokens.embeddings)


def test_mask_tokens_depend_on_the_current_token_only(target: Target) -> None:
    tokens = random_tokens(target)
    embedded = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1))
    weights = dict(tokens.named_parameters())
    found = tokens.after(embedded)
    for row, given in zip(found, embedded, strict=True):
        assert torch.equal(row[:4], given)
        moved = weights["up.weight"] @ weights["down.weight"] @ given[-1]
        torch.testing.assert_close(row[4:], tokens.embeddings + moved.view(3, 32))
    torch.testing.assert_close(tokens.slots(embedded)[:, -1], found[:, 4:])


def test_untrained_mask_tokens_are_the_same_after_every_token(target: Target) -> None:
    tokens = make_mask_tokens(target, 3, 4, BODY)
    tokens.embeddings.data.normal_()
    slots = tokens.slots(torch.randn(5, 32))
    assert torch.equal(slots, tokens.embeddings.expand(5, 3, 32))


def slot_logits(target: Target, tokens: MaskTokens, prompt: list[int]) -> torch.Tensor:
    """Logits of the prompt followed by all mask tokens, shape (T + k, V)."""
    embed = target.model.get_input_embeddings()
    with torch.no_grad():
        rows = tokens.after(embed(torch.tensor([prompt])))
        logits: torch.Tensor = target.model(inputs_embeds=rows).logits[0]
    return logits


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_real_tokens_do_not_attend_to_mask_tokens(make: Callable[[], Any]) -> None:
    target = tiny_target(make())
    prompt = tiny_prompts(1, 8, 8)[0]
    with torch.no_grad():
        expected = target.model(torch.tensor([prompt])).logits[0]
    found = slot_logits(target, random_tokens(target), prompt)
    torch.testing.assert_close(found[: len(prompt)], expected)


def test_other_embeddings_give_other_logits(target: Target) -> None:
    tokens, prompt = random_tokens(target, rank=0), tiny_prompts(1, 8, 8)[0]
    before = slot_logits(target, tokens, prompt)[len(prompt) :]
    tokens.embeddings.data = tokens.embeddings.data.roll(1, 0)
    after = slot_logits(target, tokens, prompt)[len(prompt) :]
    assert (before - after).abs().amax(1).min() > 0.01
