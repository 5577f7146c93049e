"""A small target, a prompt, and its greedy continuation."""

from __future__ import annotations

import pytest
from support.scripted_drafter import LENGTH
from support.tiny import hf_greedy, tiny_prompts, tiny_target

from skipopt.models.target import Target


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return tiny_prompts(1)[0]


@pytest.fixture(scope="module")
def text(target: Target, prompt: list[int]) -> list[int]:
    """Prompt and greedy continuation, by transformers."""
    return prompt + hf_greedy(target, prompt, LENGTH)
