"""Prompts: read a file, a folder or a built-in set, and split it into parts.

A search sees the calibration part only; its result is measured on the held-out part. A chat stays
a list of messages, so that the model's own template can render it.
"""

from __future__ import annotations

from pathlib import Path

from skipopt.prompts.builtin import BUILTIN, GENERAL, builtin_prompts
from skipopt.prompts.prompt import Message, Prompt, PromptSet, by_category, split_prompts
from skipopt.prompts.reading import read_prompts

__all__ = [
    "BUILTIN",
    "GENERAL",
    "Message",
    "Prompt",
    "PromptSet",
    "builtin_prompts",
    "by_category",
    "load_prompts",
    "split_prompts",
]


def load_prompts(
    path: str | Path | None = None, key: str | None = None, model_id: str = BUILTIN
) -> PromptSet:
    """Read prompts and split them; None takes the built-in set for the model.

    Args:
        path: text (prompts separated by blank lines), JSON Lines, a JSON list, a table, or a
            folder of such files, packed with gzip or not.
        key: the key or column that holds the prompt; None: it is recognized.
        model_id: Python code is the set for `builtin`, general prompts for any other model.

    Raises:
        PromptError: missing, unreadable, malformed, or fewer than two distinct prompts.
    """
    if path is None:
        return builtin_prompts(model_id)
    prompts, note = read_prompts(Path(path), key)
    return split_prompts(prompts, str(path), note)
