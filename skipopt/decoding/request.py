"""What one text may be, and an engine for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from skipopt.decoding.vocabulary_sizes import check_output_size
from skipopt.errors import PromptError, UsageError
from skipopt.models.target import Target
from skipopt.option_values import whole_number
from skipopt.runtime.engine import Engine


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a text: number of new tokens, context length, end-of-text tokens."""

    max_new_tokens: int
    context_limit: int
    eos_ids: Collection[int] = ()


def check_request(target: Target, prompt: Sequence[int], max_new_tokens: int) -> Limits:
    """Check a request and return its limits.

    Raises:
        PromptError: the prompt is empty, leaves no room in the context, or has a token that the
            model does not know.
        ModelError: the model predicts tokens that it cannot read.
        UsageError: max_new_tokens is not a whole number of at least 1.
    """
    max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
    if max_new_tokens < 1:
        raise UsageError(f"max-new-tokens must be 1 or more, not {max_new_tokens}")
    if not prompt:
        raise PromptError("the prompt is empty", hint="give at least one token of text")
    if len(prompt) >= target.context_limit:
        raise PromptError(
            f"the prompt has {len(prompt)} tokens, but the model's context is "
            f"{target.context_limit}",
            hint="shorten the prompt",
        )
    # On a GPU, an id that the embedding does not have would end the process.
    if unknown := [token for token in prompt if not 0 <= token < target.vocab_size]:
        raise PromptError(
            f"the prompt has the token {unknown[0]}, but the model's tokens are 0 to "
            f"{target.vocab_size - 1}",
            hint="use the model's own tokenizer",
        )
    check_output_size(target)
    return Limits(max_new_tokens, target.context_limit, target.eos_ids)


def new_engine(
    target: Target, prompt: Sequence[int], limits: Limits, max_extra_rows: int = 0
) -> Engine:
    """An engine with a cache for the longest text that this request can produce.

    Args:
        max_extra_rows: cache rows that a draft may use in addition to those of the text
            (`Drafter.max_extra_rows`).
    """
    longest = min(limits.context_limit, len(prompt) + limits.max_new_tokens)
    return Engine(target, longest + max_extra_rows)
