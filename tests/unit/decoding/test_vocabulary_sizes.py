"""Models whose output projection has more or fewer rows than their embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.native import needs_native
from support.tiny import hf_greedy, tiny_llama, tiny_target
from torch import nn

from skipopt.decoding.api import generate
from skipopt.errors import ModelError, PromptError

EMBEDDED = 64
METHODS = (
    "plain",
    "layer-skip:exit_layer=2:gamma=3",
    "layer-skip:quant=int8:gamma=3",
    "layer-skip:vocab=16:gamma=3",
    "prompt-lookup",
    "token-recycling",
    "jacobi",
    "lookahead",
    "rsd-s:exit_layer=2",
)
RUNTIMES = ("eager", pytest.param("native", marks=needs_native), "captured")
PROMPT = [5, 9, 60, 3, 7, 5, 9, 63]


def model_that_predicts(tokens: int) -> Any:
    model = tiny_llama(3, vocabulary=EMBEDDED)
    generator = torch.Generator().manual_seed(1)
    model.lm_head = nn.Linear(32, tokens, bias=False)
    model.lm_head.weight.data = torch.randn(tokens, 32, generator=generator)
    return model.eval()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_fewer_predicted_tokens_give_the_text_of_generate(runtime: str) -> None:
    target = tiny_target(model_that_predicts(EMBEDDED - 10), runtime=runtime)
    expected = hf_greedy(target, PROMPT, 12)
    for method in METHODS:
        with target.runtime.capture_immediately():
            found = list(generate(target, PROMPT, method=method, max_new_tokens=12))
            assert [token.id for token in found] == expected, method
            sampled = generate(
                target, PROMPT, method=method, max_new_tokens=12, temperature=1.0, top_k=60
            )
            assert len(list(sampled)) == 12


def test_a_penalty_on_a_token_that_is_not_predicted_is_refused() -> None:
    """`generate` of transformers fails too, with an index error."""
    target = tiny_target(model_that_predicts(EMBEDDED - 10))
    for method in METHODS:
        with pytest.raises(PromptError, match=f"token {PROMPT[2]}.*predicts only 54") as refusal:
            list(generate(target, PROMPT, method=method, repetition_penalty=1.2))
        assert refusal.value.hint
    fitting = generate(target, [5, 9, 5], method="plain", repetition_penalty=1.2, max_new_tokens=4)
    assert len(list(fitting)) == 4


@pytest.mark.parametrize("method", METHODS)
def test_more_predicted_tokens_are_refused(method: str) -> None:
    target = tiny_target(model_that_predicts(EMBEDDED + 1))
    with pytest.raises(ModelError, match="predicts 65 tokens, but it can read only the first 64"):
        list(generate(target, PROMPT, method=method))


@pytest.mark.parametrize("token", [EMBEDDED, 10**9, -1])
def test_a_prompt_token_without_an_embedding_is_refused(token: int) -> None:
    target = tiny_target(tiny_llama(3, vocabulary=EMBEDDED))
    for method in METHODS:
        with pytest.raises(PromptError, match=f"token {token}, .* are 0 to 63") as refusal:
            list(generate(target, [5, token, 9], method=method))
        assert refusal.value.hint
