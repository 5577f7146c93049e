"""Fixtures that several files of this folder use."""

from __future__ import annotations

import pytest
from support.architecture_contract import (
    LONG,
    SHORT,
    greedy,
)
from support.architectures import SKIPPABLE, build

from skipopt.models.target import Target
from skipopt.runtime.load import make_target


@pytest.fixture(scope="module", params=SKIPPABLE)
def target(request: pytest.FixtureRequest) -> Target:
    return make_target(build(request.param), None, runtime="eager")


@pytest.fixture(scope="module")
def expected(target: Target) -> dict[int, list[int]]:
    """Greedy decoding by transformers, keyed by the length of the prompt."""
    return {len(prompt): greedy(target, prompt) for prompt in (SHORT, LONG)}
