"""Texts that cross a length at which rotary embeddings change are those of `generate`."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from support.architectures import VOCABULARY
from support.native import needs_native
from support.rope import BORDER, RECIPES, build
from support.tiny import hf_greedy, tiny_target
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from skipopt.decoding.api import generate_rounds
from skipopt.models.target import Target
from skipopt.rounds import Round, Statistics

pytestmark = pytest.mark.slow  # all of them together: minutes

NEW_TOKENS = 26
METHODS = (
    "plain",
    "layer-skip:exit_layer=2:gamma=3",
    "suffix",
    "lookahead",
    "rsd-s:exit_layer=2",
)
RUNTIMES = ("eager", pytest.param("native", marks=needs_native), "captured")
random = Random(1)
PROMPTS = [
    [random.randrange(VOCABULARY) for _ in range(length)]
    for length in (9, BORDER - 1, BORDER, BORDER + 1, BORDER + 2)
]


@pytest.fixture(scope="module", params=RECIPES)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@pytest.fixture(scope="module")
def expected(model: Any) -> list[list[int]]:
    target = tiny_target(model)
    return [hf_greedy(target, prompt, NEW_TOKENS) for prompt in PROMPTS]


def decode(target: Target, prompt: list[int], method: str) -> list[Round]:
    with target.runtime.capture_immediately():  # drafts of so short a text may not pay
        return list(generate_rounds(target, prompt, method=method, max_new_tokens=NEW_TOKENS))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_method_gives_the_tokens_of_generate(
    model: Any, expected: list[list[int]], runtime: str
) -> None:
    target = tiny_target(model, runtime=runtime)
    for method in METHODS:
        total = Statistics()
        for prompt, tokens in zip(PROMPTS, expected, strict=True):
            rounds = decode(target, prompt, method)
            found = [token for each in rounds for token in each.emitted]
            # Dynamic frequencies change at the end of the context, where a text ends.
            is_cut = rounds[-1].stop == "context"
            ended = target.context_limit - len(prompt) if is_cut else NEW_TOKENS
            assert found == tokens[:ended], (method, len(prompt))
            for each in rounds:
                total.add(each)
        assert bool(total.drafted) == (method != "plain"), method
        if "exit_layer" in method:  # copies of a text that repeats itself are all accepted
            assert total.accepted < total.drafted, method


def test_steps_stay_captured_from_text_to_text(model: Any) -> None:
    target = tiny_target(model, runtime="captured")
    for _ in range(4):
        decode(target, PROMPTS[0], "plain")
    assert target.runtime.step_caches.generation == 0


def test_every_type_of_transformers_is_tried() -> None:
    settings = [recipe["rope_parameters"] for _, recipe in RECIPES.values()]
    parts = [part for each in settings for part in (each, *each.values())]
    tried = {part["rope_type"] for part in parts if isinstance(part, dict) and "rope_type" in part}
    # `proportional` frequencies are fixed, and only Gemma 4 and its kind have them.
    assert tried >= set(ROPE_INIT_FUNCTIONS) - {"proportional"}
