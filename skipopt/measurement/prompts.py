"""The prompts that are timed, in any form that a caller may give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from skipopt.decoding.text_prompt import is_chat, prompt_ids, tokenizer_of
from skipopt.detokenizer import encode_prompts
from skipopt.errors import PromptError
from skipopt.prompts import GENERAL, Prompt, PromptSet, builtin_prompts

if TYPE_CHECKING:
    from skipopt.models.target import Target

# Held-out prompts of the general set that are timed by default: two of each category.
GENERAL_TIMED = 16

# A text, chat messages, token ids, or a prompt that was read from a file.
AnyPrompt = str | Sequence[Mapping[str, str]] | Sequence[int] | Prompt
AnyPrompts = PromptSet | Sequence[AnyPrompt]


class EncodedPrompts(NamedTuple):
    """Token ids and category of each prompt."""

    ids: list[list[int]]
    categories: list[str | None]


def timed_prompts(prompts: PromptSet, count: int | None = None) -> tuple[Prompt, ...]:
    """The first `count` held-out prompts; None: all, or 16 of the general set."""
    most = len(prompts.held_out)
    return prompts.held_out[: count or (GENERAL_TIMED if prompts.source == GENERAL else most)]


def encode_any(target: Target, prompts: AnyPrompts | None) -> EncodedPrompts:
    """The prompts as token ids.

    Args:
        prompts: of a set, the held-out part is taken; None: the built-in set for the model.

    Raises:
        PromptError: there is none, a single one instead of several, or one that cannot be read.
        UsageError: text without a tokenizer.
    """
    if prompts is None:
        prompts = builtin_prompts(target.model_id)
    given: Sequence[Any] = timed_prompts(prompts) if isinstance(prompts, PromptSet) else prompts
    if isinstance(given, str) or is_chat(given) or (given and isinstance(given[0], int)):
        raise PromptError("prompts must be a list of prompts, not one", hint="write [prompt]")
    if not given:
        raise PromptError("there are no prompts", hint="give at least one")
    categories = [each.category if isinstance(each, Prompt) else None for each in given]
    return EncodedPrompts([_encode(target, each) for each in given], categories)


def _encode(target: Target, prompt: AnyPrompt) -> list[int]:
    if isinstance(prompt, Prompt):
        return encode_prompts(tokenizer_of(target), [prompt])[0]
    return prompt_ids(target, prompt)
