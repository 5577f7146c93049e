"""The prompts that a command names, or the built-in set for its model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from skipopt.cli.output import Output

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.prompts import PromptSet


def read_prompts(path: Path | None, key: str | None, terminal: Output) -> PromptSet | None:
    """The prompts of a file or folder, with a note on what was recognized; None: the built-in set.

    Raises:
        PromptError: they cannot be read.
        UsageError: a key without a file.
    """
    from skipopt.errors import UsageError
    from skipopt.prompts import load_prompts

    if path is None:
        if key is not None:
            raise UsageError("--prompt-key names a key of --prompts", hint="give --prompts too")
        return None
    found = load_prompts(path, key)
    terminal.note(found.note)
    return found


def prompts_for(given: PromptSet | None, target: Target, terminal: Output) -> PromptSet:
    """The given prompts, or the built-in set for the model, with a note on how chats are given."""
    from skipopt.prompts import builtin_prompts

    found = builtin_prompts(target.model_id) if given is None else given
    if line := chat_note(found, target):
        terminal.note(line)
    return found


def chat_note(prompts: PromptSet, target: Target) -> str | None:
    """Whether chats go through the model's chat template; None where there are none."""
    from skipopt.detokenizer import template_hash
    from skipopt.prompts import GENERAL, by_category

    everything = (*prompts.calibration, *prompts.validation, *prompts.held_out)
    chats = [prompt for prompt in everything if prompt.messages is not None]
    if not chats or target.tokenizer is None:
        return None
    kinds = ", ".join(by_category(chats)) if prompts.source == GENERAL else ""
    name = f"built-in prompts ({kinds})" if kinds else f"{len(chats)} chats"
    template = template_hash(target.tokenizer)
    if template is None:
        return f"{name} as plain text: the model has no chat template"
    return f"{name} through the model's chat template ({template[:19]})"


def held_out(prompts: PromptSet, count: int | None, terminal: Output) -> PromptSet:
    """The set with the first `count` held-out prompts only.

    Args:
        count: None: all, or 16 of the general set.
    """
    from skipopt.measurement.prompts import timed_prompts

    chosen, most = timed_prompts(prompts, count), len(prompts.held_out)
    if len(chosen) < most:
        terminal.note(f"{len(chosen)} of {most} held-out prompts; --num-prompts {most} takes all")
    return replace(prompts, held_out=chosen)
