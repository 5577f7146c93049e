"""Prompts: read a file, a folder or the built-in set, and split it into two halves.

A search sees the calibration half only; its result is measured on the held-out half. A chat stays
a list of messages, so that the model's own template can render it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from skipopt.errors import PromptError

BUILTIN = "builtin"


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Text = Annotated[str, AfterValidator(_not_blank)]
LINE_FORMAT = 'each line reads {"prompt": "..."} or {"messages": [{"role": ..., "content": ...}]}'


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Plain text, or the messages of a chat: exactly one of the two."""

    text: str | None = None
    messages: tuple[Message, ...] | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.messages is None):
            raise ValueError(f"a prompt is either text or messages, not {self!r}")

    def chat(self) -> list[dict[str, str]]:
        """The messages as chat templates take them; empty for a plain text."""
        return [{"role": m.role, "content": m.content} for m in self.messages or ()]

    def canonical(self) -> str:
        """The prompt as JSON text; equal if and only if the prompts are."""
        return json.dumps(self.text if self.messages is None else self.chat())


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Two halves that share no prompt.

    Attributes:
        calibration: for the search.
        held_out: for measuring its result.
        source: `builtin`, or the file or folder read.
    """

    calibration: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    source: str

    @property
    def digest(self) -> str:
        """`sha256:…` of all prompts and the half that each is in."""
        halves = (self.calibration, self.held_out)
        text = json.dumps([[prompt.canonical() for prompt in half] for half in halves])
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def load_prompts(path: str | Path | None = None) -> PromptSet:
    """Read prompts and split them; None reads the built-in set.

    Args:
        path: a text file (prompts separated by blank lines), a `.jsonl` file (objects with
            `prompt` or `messages`; other keys are ignored), or a folder (each file is one
            prompt; hidden files and subfolders are left out).

    Raises:
        PromptError: missing, unreadable, malformed, or fewer than two distinct prompts.
    """
    if path is None:
        return _builtin_prompts()
    path = Path(path)
    if path.is_dir():
        prompts = _read_folder(path)
    elif path.suffix.lower() == ".jsonl":
        prompts = [record.to_prompt() for record in _read_lines(path)]
    else:
        prompts = [Prompt(text) for text in _split_blank_lines(_read_text(path))]
    return split_prompts(prompts, str(path))


def split_prompts(prompts: Iterable[Prompt | str], source: str) -> PromptSet:
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
    distinct = _distinct(Prompt(p) if isinstance(p, str) else p for p in prompts)
    if not distinct:
        raise PromptError(f"{source}: there are no prompts in it", hint="write two or more")
    if len(distinct) == 1:
        raise PromptError(
            f"{source}: there is only one distinct prompt, but a search needs two",
            hint="add another: one half is for the search, the other for measuring its result",
        )
    halves: tuple[list[Prompt], list[Prompt]] = ([], [])
    for i in range(0, len(distinct), 2):
        first = _hash_bit(distinct[i])
        for prompt, half in zip(distinct[i : i + 2], (first, 1 - first), strict=False):
            halves[half].append(prompt)
    return PromptSet(tuple(halves[0]), tuple(halves[1]), source)


def _distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Each prompt once, in order of first appearance, without blank ones."""
    found: dict[tuple[tuple[str, str], ...], Prompt] = {}
    for prompt in prompts:
        turns = prompt.messages or (Message("", prompt.text or ""),)
        key = tuple((turn.role, " ".join(turn.content.split())) for turn in turns)
        if any(content for _, content in key):
            found.setdefault(key, prompt)
    return list(found.values())


def _hash_bit(prompt: Prompt) -> int:
    return hashlib.sha256(prompt.canonical().encode()).digest()[0] % 2


# Reading


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PromptError(
            f"there are no prompts at {str(path)!r}", hint="check the path"
        ) from None
    except UnicodeDecodeError:
        raise _not_text(path) from None
    except OSError as error:
        raise PromptError(
            f"cannot read {str(path)!r}: {error.strerror}", hint="check the file's permissions"
        ) from None
    if "\0" in text:
        raise _not_text(path)
    return text


def _not_text(path: Path) -> PromptError:
    return PromptError(
        f"{path}: the file is not text", hint="save the prompts as plain text in UTF-8"
    )


def _split_blank_lines(text: str) -> list[str]:
    """Indentation is kept: it is part of a prompt of code."""
    blocks: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return ["\n".join(block) for block in blocks if block]


def _read_folder(folder: Path) -> list[Prompt]:
    try:
        found = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise PromptError(
            f"cannot read {str(folder)!r}: {error.strerror}", hint="check its permissions"
        ) from None
    paths = [p for p in found if p.is_file()]
    if not paths:
        raise PromptError(
            f"{folder}: there are no files in this folder", hint="put each prompt in a file there"
        )
    return [Prompt(_read_text(path).strip("\n")) for path in paths]


class _MessageRecord(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Text
    content: Text


class _PromptRecord(BaseModel):
    """One line of a JSON Lines file; other keys are ignored."""

    model_config = ConfigDict(strict=True)

    prompt: Text | None = None
    messages: Annotated[list[_MessageRecord], Field(min_length=1)] | None = None
    part: str | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            found = "neither 'prompt' nor 'messages'" if self.prompt is None else "both of them"
            raise ValueError(f"{found}, expected either 'prompt' or 'messages'")
        return self

    def to_prompt(self) -> Prompt:
        if self.messages is None:
            return Prompt(self.prompt)
        return Prompt(messages=tuple(Message(m.role, m.content) for m in self.messages))


def _read_lines(path: Path) -> Iterator[_PromptRecord]:
    """The records of a JSON Lines file, without blank lines."""
    # Only \n ends a line: JSON strings may contain the other line breaks that Python knows.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            yield _parse_line(line, f"{path}: line {number}")


def _parse_line(line: str, where: str) -> _PromptRecord:
    try:
        return _PromptRecord.model_validate_json(line)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
    key = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    raise PromptError(f"{where}: {key}{': ' if key else ''}{message}", hint=LINE_FORMAT)


def _builtin_prompts() -> PromptSet:
    """The built-in set; its halves are stored with it and share no source file."""
    path = Path(str(files("skipopt") / "data" / "prompts.jsonl"))
    halves: dict[str, list[Prompt]] = {"calibration": [], "held_out": []}
    for record in _read_lines(path):
        halves[str(record.part)].append(record.to_prompt())
    return PromptSet(tuple(halves["calibration"]), tuple(halves["held_out"]), BUILTIN)
