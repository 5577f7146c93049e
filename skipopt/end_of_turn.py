"""Tokens that end the turn of a chat model, as its tokenizer and chat template have them."""

from __future__ import annotations

from typing import Any

ANSWER = "skipopt answers"
QUESTION = "skipopt asks"


def end_of_turn_ids(tokenizer: Any) -> frozenset[int]:
    """The tokenizer's end-of-text token, and the special token that its template puts after an
    answer.
    """
    own = getattr(tokenizer, "eos_token_id", None)
    found = [own] if isinstance(own, int) else []
    return frozenset([*found, *_after_an_answer(tokenizer)])


def _after_an_answer(tokenizer: Any) -> list[int]:
    """The special token, if it is one that comes after an answer; else nothing."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": QUESTION},
    ]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # whatever the model's own template raises
        return []
    _, found, rest = text.rpartition(ANSWER)
    if not found:
        return []
    ids: list[int] = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"]
    return ids[:1] if ids and ids[0] in _special_ids(tokenizer) else []


def _special_ids(tokenizer: Any) -> set[int]:
    """Those of the tokenizer, and added tokens that are marked as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = {number for number, token in added.items() if getattr(token, "special", False)}
    return marked | set(getattr(tokenizer, "all_special_ids", ()))
