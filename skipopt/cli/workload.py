"""Prompts as the token ids of one model. Knows nothing of what they are for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skipopt.detokenizer import encode_prompt

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.prompts import Prompt


def encode_prompts(target: Target, prompts: Iterable[Prompt]) -> list[list[int]]:
    """Token ids of each; messages go through the model's chat template."""
    return [encode_prompt(target.tokenizer, p.text, p.chat() or None) for p in prompts]
