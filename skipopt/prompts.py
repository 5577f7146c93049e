"""Prompts: read a user's or the built-in ones, and split them into two halves that never mix.

A search looks at the calibration half only; what it found is measured on the held-out half.
Knows nothing of tokens or models: a chat stays a list of messages, for its template to render.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from skipopt.errors import PromptError

BUILTIN = "builtin"
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
        """The messages as chat templates take them; empty for plain text."""
        return [{"role": m.role, "content": m.content} for m in self.messages or ()]

    def canonical(self) -> str:
        """The whole prompt as one JSON text; equal exactly when the prompts are."""
        return json.dumps(self.text if self.messages is None else self.chat())


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Two halves that share no prompt.

    Attributes:
        calibration: what a search may look at.
        held_out: what its result is measured on.
        source: `builtin`, or the file or folder they are from.
    """

    calibration: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    source: str

    @property
    def digest(self) -> str:
        """`sha256:…` over all prompts and the half each is in."""
        halves = (self.calibration, self.held_out)
        text = json.dumps([[prompt.canonical() for prompt in half] for half in halves])
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def load_prompts(path: str | Path | None = None) -> PromptSet:
    """Read prompts and split them; None is the set that comes with the package.

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
        prompts = [_prompt_of(record, where) for record, where in _read_lines(path)]
    else:
        prompts = [Prompt(text) for text in _split_blank_lines(_read_text(path))]
    return split_prompts(prompts, str(path))


def split_prompts(prompts: Iterable[Prompt | str], source: str) -> PromptSet:
    """Deal prompts out to the two halves.

    Prompts that differ in white space only count as one. They are taken two by two in the order
    given, and a hash of the first decides which half it joins; the second joins the other one.
    So the halves are of one size, follow no pattern in the order (question, answer, question, …),
    are the same on every machine, and prompts appended later move none of the earlier ones.

    Raises:
        PromptError: fewer than two distinct prompts.
    """
    distinct = _distinct(Prompt(p) if isinstance(p, str) else p for p in prompts)
    if not distinct:
        raise PromptError(f"{source}: there are no prompts in it", hint="write two or more")
    if len(distinct) == 1:
        raise PromptError(
            f"{source}: there is only one distinct prompt, but a search needs two",
            hint="add another: one half is searched on, the other shows that it holds elsewhere",
        )
    halves: tuple[list[Prompt], list[Prompt]] = ([], [])
    for i in range(0, len(distinct), 2):
        first = _hash_bit(distinct[i])
        for prompt, half in zip(distinct[i : i + 2], (first, 1 - first), strict=False):
            halves[half].append(prompt)
    return PromptSet(tuple(halves[0]), tuple(halves[1]), source)


def _distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Each prompt once, where it came first; blank ones are none."""
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


def _read_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """(object, where it stands) for each line of a JSON Lines file that is not blank."""
    # Only \n ends a line here: JSON strings may hold the other line breaks Python knows.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            yield _parse_line(line, f"{path}: line {number}"), f"{path}: line {number}"


def _parse_line(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except json.JSONDecodeError as error:
        raise PromptError(f"{where}: not JSON: {error.msg}", hint=LINE_FORMAT) from None
    except UnicodeEncodeError:
        raise PromptError(f"{where}: half of a surrogate pair", hint=LINE_FORMAT) from None
    except RecursionError:
        raise PromptError(f"{where}: nested too deeply", hint=LINE_FORMAT) from None
    if not isinstance(record, dict):
        raise PromptError(f"{where}: {_kind(record)}, expected an object", hint=LINE_FORMAT)
    return record


def _prompt_of(record: dict[str, Any], where: str) -> Prompt:
    keys = [key for key in ("prompt", "messages") if key in record]
    if len(keys) != 1:
        found = "both 'prompt' and 'messages'" if keys else "neither 'prompt' nor 'messages'"
        raise PromptError(f"{where}: {found}, expected one of them", hint=LINE_FORMAT)
    if keys == ["messages"]:
        return Prompt(messages=_messages_of(record["messages"], where))
    return Prompt(_text_of(record["prompt"], "prompt", where))


def _messages_of(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _kind(value)
        raise PromptError(f"{where}: messages is {found}, expected a list", hint=LINE_FORMAT)
    return tuple(_message_of(m, f"messages[{i}]", where) for i, m in enumerate(value))


def _message_of(value: Any, key: str, where: str) -> Message:
    if not isinstance(value, dict):
        raise PromptError(f"{where}: {key} is {_kind(value)}, expected an object", LINE_FORMAT)
    role, content = (_text_of(value.get(k), f"{key}.{k}", where) for k in ("role", "content"))
    return Message(role, content)


def _text_of(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "blank" if isinstance(value, str) else _kind(value)
        raise PromptError(f"{where}: {key} is {found}, expected text", hint=LINE_FORMAT)
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")


def _builtin_prompts() -> PromptSet:
    """The package's own prompts; their halves were chosen file by file when they were made."""
    path = Path(str(files("skipopt") / "data" / "prompts.jsonl"))
    halves: dict[str, list[Prompt]] = {"calibration": [], "held_out": []}
    for record, where in _read_lines(path):
        halves[record["part"]].append(_prompt_of(record, where))
    return PromptSet(tuple(halves["calibration"]), tuple(halves["held_out"]), BUILTIN)
