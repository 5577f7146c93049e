"""The prompt sets that come with the package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TypedDict

from skipopt.prompts.prompt import Message, Prompt, PromptSet

BUILTIN, GENERAL = "builtin", "general"


class _General(TypedDict):
    """A line of `general-prompts.jsonl`."""

    category: str
    split: str
    messages: list[dict[str, str]]


class _Python(TypedDict):
    """A line of `prompts.jsonl`; `file` is the file of the standard library that it is from."""

    file: str
    part: str
    prompt: str


def builtin_prompts(model_id: str) -> PromptSet:
    """Python code for the built-in model, which was trained on nothing else; general otherwise.

    Args:
        model_id: as in `Target.model_id`.
    """
    return _python_prompts() if model_id == BUILTIN else _general_prompts()


def _python_prompts() -> PromptSet:
    """Beginnings of functions; no source file is in both halves."""
    halves: dict[str, list[Prompt]] = {"calibration": [], "held_out": []}
    for line in _lines("prompts.jsonl"):
        record: _Python = json.loads(line)
        halves[record["part"]].append(Prompt(record["prompt"]))
    return PromptSet(tuple(halves["calibration"]), tuple(halves["held_out"]), BUILTIN)


def _general_prompts() -> PromptSet:
    """Chats of one user message; the categories take turns, so that any first few are mixed."""
    parts: dict[str, list[Prompt]] = {"calibration": [], "validation": [], "held_out": []}
    for line in _lines("general-prompts.jsonl"):
        record: _General = json.loads(line)
        messages = tuple(Message(m["role"], m["content"]) for m in record["messages"])
        parts[record["split"]].append(Prompt(messages=messages, category=record["category"]))
    return PromptSet(
        tuple(parts["calibration"]),
        tuple(parts["held_out"]),
        GENERAL,
        validation=tuple(parts["validation"]),
    )


def _lines(name: str) -> list[str]:
    text = (files("skipopt") / "data" / name).read_text(encoding="utf-8")
    return text.strip("\n").split("\n")
