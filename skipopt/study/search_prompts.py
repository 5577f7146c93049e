"""The prompts of a search: read, tokenized, and as a profile records them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipopt.errors import PromptError
from skipopt.study.to_profile import UsedPrompts

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.prompts import Prompt, PromptSet


def prompt_set(target: Target, prompts: PromptSet | Sequence[str] | None) -> PromptSet:
    """The prompts given, or the built-in set for the model."""
    from skipopt.prompts import PromptSet, load_prompts, split_prompts

    if prompts is None:
        return load_prompts(model_id=target.model_id)
    return prompts if isinstance(prompts, PromptSet) else split_prompts(prompts, "given")


def tokenize(target: Target, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of the prompts; raises PromptError where the target has no tokenizer."""
    from skipopt.detokenizer import encode_prompts

    if target.tokenizer is None:
        raise PromptError(
            "this target has no tokenizer, so prompts cannot be read",
            hint="load it with skipopt.load((model, tokenizer))",
        )
    return encode_prompts(target.tokenizer, prompts)


def used_prompts(target: Target, prompts: PromptSet, used: Sequence[Prompt]) -> UsedPrompts:
    """What a profile records of the prompts that were used of a set."""
    from skipopt.detokenizer import template_hash
    from skipopt.prompts import by_category

    is_chat = any(prompt.messages is not None for prompt in used)
    template = template_hash(target.tokenizer) if is_chat else None
    return UsedPrompts(prompts.digest, template, tuple(by_category(used).items()))
