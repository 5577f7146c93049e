"""Logits that are not numbers end in one line; those of a draft alone change no text."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.marking import Marking
from support.native import needs_native
from support.tiny import tiny_llama, tiny_target
from torch import Tensor, nn

from skipopt.decoding.api import generate
from skipopt.errors import ModelError
from skipopt.models.target import Target

PROMPT = [5, 9, 60, 3, 7, 5, 9, 60]
METHODS = (
    "plain",
    "layer-skip:exit_layer=2:gamma=3",
    "layer-skip:exit_layer=2:gamma=3:verify=match",
    "prompt-lookup",
    "suffix",
    "jacobi",
    "lookahead",
    "swift:auto_disable=no",
    "rsd-s:exit_layer=2",
    "rsd-c:exit_layer=2",
)
RUNTIMES = ("eager", pytest.param("native", marks=needs_native), "captured")


def text(target: Target, method: str, temperature: float = 0.0, count: int = 12) -> list[int]:
    tokens = generate(target, PROMPT, method=method, max_new_tokens=count, temperature=temperature)
    return [token.id for token in tokens]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_damaged_weight_is_refused_at_the_first_token(runtime: str, value: float) -> None:
    model = tiny_llama(3)
    with torch.no_grad():
        model.model.norm.weight[3] = value
    target = tiny_target(model, runtime=runtime)
    for method in METHODS:
        for temperature in (0.0, 1.0):
            with pytest.raises(ModelError, match="for new token 1 are NaN or inf") as caught:
                text(target, method, temperature)
            assert "weight" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [(torch.float32, "weight"), (torch.bfloat16, "float32"), (torch.float16, "bfloat16")],
)
def test_the_token_is_named_and_what_helps(dtype: torch.dtype, hint: str) -> None:
    model = tiny_llama(3).to(dtype)
    target = tiny_target(model)
    whole = text(target, "plain")
    place = next(i for i, token in enumerate(whole) if token not in [*whole[:i], *PROMPT])
    model.model.embed_tokens.weight.data[whole[place]] = math.nan
    for method in METHODS:
        # The token after the one whose embedding is damaged.
        with pytest.raises(ModelError, match=f"new token {place + 2} ") as caught:
            text(target, method)
        assert hint in str(caught.value.hint)
        assert text(target, method, count=place + 1) == whole[: place + 1]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_later_text_is_not_spoiled(runtime: str) -> None:
    """The cache of captured steps is used again."""
    model = tiny_llama(3)
    target = tiny_target(model, runtime=runtime)
    expected = text(target, "plain")
    damaged = next(token for token in range(64) if token not in [*expected, *PROMPT])
    model.model.embed_tokens.weight.data[damaged] = math.nan
    for method in METHODS:
        for prompt in ([damaged] * 20, [*PROMPT, damaged]):
            with pytest.raises(ModelError, match="new token 1 "):
                list(generate(target, prompt, method=method))
        assert text(target, method) == expected


class Overflowing(nn.Module):
    """A final norm that is NaN unless the last layer ran: a draft without it is."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        marked = x[..., :1] > 50
        return torch.where(marked, self.inner(x), math.nan)


def with_nan_in_drafts() -> Any:
    model = tiny_llama(3)
    model.model.layers[2].mlp = Marking(model.model.layers[2].mlp)
    model.model.norm = Overflowing(model.model.norm)
    return model


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_draft_that_is_not_a_number_changes_no_text(runtime: str) -> None:
    target = tiny_target(with_nan_in_drafts(), runtime=runtime)
    expected = text(target, "plain")
    for method in METHODS:
        assert text(target, method) == expected
        assert len(text(target, method, temperature=1.0)) == 12


def test_some_logits_may_be_minus_infinity() -> None:
    model = tiny_llama(3)
    banned = torch.tensor(text(tiny_target(model), "plain")[:1])
    model.lm_head.register_forward_hook(
        lambda module, inputs, output: output.index_fill(-1, banned, -math.inf)
    )
    expected = text(tiny_target(model), "plain")
    for method in METHODS:
        assert text(tiny_target(model), method) == expected
        assert int(banned) not in text(tiny_target(model), method, temperature=1.0)


def test_logits_that_are_all_minus_infinity_are_refused() -> None:
    model = tiny_llama(3)
    model.lm_head.register_forward_hook(lambda *given: torch.full_like(given[2], -math.inf))
    with pytest.raises(ModelError, match="new token 1"):
        text(tiny_target(model), "plain")


def test_numbers_after_the_end_of_the_text_do_not_matter() -> None:
    """A drafted token after the end-of-text token, whose own logits are NaN."""
    model = tiny_llama(3)
    whole = text(tiny_target(model), "plain")
    place = next(i for i, token in enumerate(whole) if token not in [*whole[:i], *PROMPT])
    model.generation_config.eos_token_id = whole[place]
    target = tiny_target(model)
    model.model.embed_tokens.weight.data[whole[place]] = math.nan
    for method in METHODS:
        assert text(target, method) == whole[: place + 1]
