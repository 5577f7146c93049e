"""Prompts as values, and how a list of them is split into parts that share none."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from skipopt.errors import PromptError


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    Attributes:
        more: a JSON object of its other keys that chat templates read, such as `tool_calls`.
    """

    role: str
    content: str
    more: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        more: dict[str, Any] = {} if self.more is None else json.loads(self.more)
        return {"role": self.role, "content": self.content, **more}


@dataclass(frozen=True, slots=True)
class Prompt:
    """Plain text, or the messages of a chat: exactly one of the two.

    Attributes:
        tools: a JSON list of the tools that a chat may call.
        category: what kind of task it is, where its file says so.
        where: the file and line that it was read from, for messages about it.
    """

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    tools: str | None = None
    category: str | None = field(default=None, compare=False)
    where: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.messages is None):
            raise ValueError(f"a prompt is either text or messages, not {self!r}")

    def chat(self) -> list[dict[str, Any]]:
        """The messages as chat templates take them; empty for a plain text."""
        return [message.as_dict() for message in self.messages or ()]

    def tool_list(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates take them."""
        return None if self.tools is None else json.loads(self.tools)

    @property
    def single_turn(self) -> str | None:
        """The text of a chat that is one user message; None for every other prompt."""
        if self.messages is None or len(self.messages) > 1 or self.tools is not None:
            return None
        message = self.messages[0]
        return message.content if message.role == "user" else None

    def canonical(self) -> str:
        """The prompt as JSON text; equal if and only if the prompts are."""
        chat: Any = self.chat() if self.tools is None else [self.chat(), self.tool_list()]
        return json.dumps(self.text if self.messages is None else chat)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Parts that share no prompt.

    Attributes:
        calibration: for the search.
        held_out: for measuring its result.
        source: `builtin`, `general`, or the file or folder read.
        validation: what the finalists of a search decode; empty where the search takes some of
            the calibration part for that.
        note: in one line, what was recognized in the file or folder; empty for a built-in set.
    """

    calibration: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    source: str
    validation: tuple[Prompt, ...] = ()
    note: str = ""

    @property
    def digest(self) -> str:
        """`sha256:…` of all prompts and the part that each is in."""
        parts = [self.calibration, self.held_out, *([self.validation] if self.validation else [])]
        text = json.dumps([[prompt.canonical() for prompt in part] for part in parts])
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def by_category(prompts: Iterable[Prompt]) -> dict[str, int]:
    """Number of prompts of each category, in order of first appearance."""
    return dict(Counter(p.category for p in prompts if p.category is not None))


def split_prompts(prompts: Iterable[Prompt | str], source: str, note: str = "") -> PromptSet:
    """Split prompts into two halves of equal size.

    Prompts that differ in white space only count as one. Of each pair in the given order, a hash
    of the first prompt decides its half; the second joins the other half. The split is therefore
    the same on every machine, independent of patterns in the order (question, answer, …), and
    unchanged for earlier prompts when others are appended.

    Raises:
        PromptError: fewer than two distinct prompts, or one string instead of several.
    """
    if isinstance(prompts, str):  # its characters would be taken for prompts
        raise PromptError(
            "prompts must be a list of texts, not one text",
            hint="to read a file: skipopt.prompts.load_prompts(FILE)",
        )
    distinct = distinct_prompts(Prompt(p) if isinstance(p, str) else p for p in prompts)
    _check_count(distinct, source)
    halves: tuple[list[Prompt], list[Prompt]] = ([], [])
    for i in range(0, len(distinct), 2):
        first = _hash_bit(distinct[i])
        for prompt, half in zip(distinct[i : i + 2], (first, 1 - first), strict=False):
            halves[half].append(prompt)
    return PromptSet(tuple(halves[0]), tuple(halves[1]), source, note=note)


def distinct_prompts(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Each prompt once, in order of first appearance, without blank ones."""
    found: dict[tuple[object, ...], Prompt] = {}
    for prompt in prompts:
        turns = prompt.messages or (Message("", prompt.text or ""),)
        key = tuple((turn.role, " ".join(turn.content.split()), turn.more) for turn in turns)
        if any(content for _, content, _ in key):
            found.setdefault((prompt.tools, key), prompt)
    return list(found.values())


def _check_count(distinct: Sequence[Prompt], source: str) -> None:
    if not distinct:
        raise PromptError(f"{source}: there are no prompts in it", hint="write two or more")
    if len(distinct) == 1:
        raise PromptError(
            f"{source}: there is only one distinct prompt, but a search needs two",
            hint="add another: one half is for the search, the other for measuring its result",
        )


def _hash_bit(prompt: Prompt) -> int:
    return hashlib.sha256(prompt.canonical().encode()).digest()[0] % 2
