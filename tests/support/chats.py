"""A tokenizer with a chat template, and a model folder with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.tiny import byte_tokenizer, tiny_llama

TURN = "<|turn|>"
TEMPLATE = (
    "{% if quiet %}(quiet){% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|turn|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def chat_tokenizer() -> Any:
    """One token per byte, and one that ends a turn."""
    made = byte_tokenizer()
    made.add_special_tokens({"additional_special_tokens": [TURN]})
    made.chat_template = TEMPLATE
    return made


def save_chat_model(folder: Path, context: int = 1024) -> Path:
    """A tiny random model; its configs do not name the token that ends a turn."""
    tokenizer = chat_tokenizer()
    model = tiny_llama(vocabulary=len(tokenizer), context=context)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
