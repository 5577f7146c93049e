"""Fixtures that several files of this folder use."""

from __future__ import annotations

import pytest
import torch
from support.tiny import tiny_prompts, tiny_target

from skipopt.drafting.checkpoints.heads import (
    final_states,
)
from skipopt.models.target import Target


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


@pytest.fixture(scope="module")
def hidden(target: Target) -> torch.Tensor:
    return final_states(target, torch.tensor(tiny_prompts(2, 7, 7))).detach()
