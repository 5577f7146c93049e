"""Prompts as text, chat or token ids, and where the texts of a chat end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import token_list
from skipopt.detokenizer import encode_prompt
from skipopt.end_of_turn import end_of_turn_ids
from skipopt.errors import UsageError
from skipopt.models.identity import every_eos_id

if TYPE_CHECKING:
    from skipopt.models.target import Target


def prompt_ids(
    target: Target,
    prompt: Any,
    chat: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a prompt in any form that `stream_generate` accepts.

    Raises:
        UsageError: text or messages without a tokenizer, messages without a chat template, `chat`
            for token ids, variables of a template that is not used, or several prompts.
    """
    if isinstance(prompt, list | tuple) and len(prompt) == 1 and _is_text_or_chat(prompt[0]):
        [prompt] = prompt
    if is_chat(prompt):
        messages = [dict(each) for each in prompt]
        return encode_prompt(
            tokenizer_of(target), messages=messages, template_kwargs=template_kwargs
        )
    if template_kwargs and not chat:
        raise UsageError(
            "chat_template_kwargs are for a chat, and this prompt is none",
            hint="give messages, or chat=True",
        )
    if isinstance(prompt, str):
        return encode_prompt(
            tokenizer_of(target), prompt, chat=chat, template_kwargs=template_kwargs
        )
    if chat:
        raise UsageError(
            "chat is for a text, and this prompt is not one",
            hint="leave it out: messages go through the chat template, token ids do not",
        )
    return token_list(prompt)


def tokenizer_of(target: Target) -> Any:
    """The target's tokenizer.

    Raises:
        UsageError: it has none.
    """
    if target.tokenizer is None:
        raise UsageError(
            "this target has no tokenizer",
            hint="load it with skipopt.load((model, tokenizer)), or call skipopt.generate",
        )
    return target.tokenizer


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a list of chat messages."""
    return isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping)


def _is_text_or_chat(prompt: Any) -> bool:
    return isinstance(prompt, str) or is_chat(prompt)


def ending_turns(target: Target) -> Target:
    """The target, whose texts end with its turn of a chat.

    A turn ends at any end-of-text token of its configs, its tokenizer and its chat template.
    """
    ends = target.eos_ids | every_eos_id(target.model) | end_of_turn_ids(target.tokenizer)
    return replace(target, eos_ids=ends)
