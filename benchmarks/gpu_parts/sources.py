"""Python source of this machine, split by a hash of the path; prompts cut from it.

Standard library and installed packages. One file in sixteen is held out. Files are taken in the
order of a hash of their path, so that a part of them is an even sample.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from skipopt.errors import PromptError
from skipopt.prompts import Prompt, PromptSet
from skipopt.training.corpus import GENERATED, LEFT_OUT_FOLDERS, bucket, source_files
from tools.make_builtin_prompts import cut_snippets

MAX_FILE = 200_000  # characters; larger files are mostly tables
FOR_PROMPTS = 4_000_000  # characters that prompts are cut from


class Sources(NamedTuple):
    """Texts by path, without duplicates."""

    train: dict[str, str]
    held_out: dict[str, str]


def read_sources(max_characters: int) -> Sources:
    """Files until there are `max_characters` for training."""
    found = Sources({}, {})
    seen: set[bytes] = set()
    taken = 0
    for name, path in sorted(python_files(), key=lambda file: order_key(file[0])):
        if taken >= max_characters:
            break
        text = path.read_text(encoding="utf-8", errors="replace")
        # Vendored copies would put the same text into both parts.
        if not text.strip() or len(text) > MAX_FILE or (known := _digest(text)) in seen:
            continue
        seen.add(known)
        part = found.held_out if bucket(name) == 0 else found.train
        part[name] = text
        taken += len(text) if part is found.train else 0
    return found


def python_files() -> Iterator[tuple[str, Path]]:
    """(name, path) of every file that may be used."""
    for name, path in source_files():
        yield f"stdlib/{name}", path
    for root in {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}:
        for path in root.rglob("*.py"):
            inside = path.relative_to(root)
            excluded = LEFT_OUT_FOLDERS.intersection(inside.parts)
            if not excluded and not GENERATED.search(inside.as_posix()) and path.is_file():
                yield f"site-packages/{inside.as_posix()}", path


def make_prompts(calibration: int, held_out: int) -> PromptSet:
    """Calibration prompts from the training files, held-out ones from the held-out files.

    Raises:
        PromptError: there is too little source to cut them from.
    """
    sources = read_sources(FOR_PROMPTS)
    parts = [
        tuple(_prompts(texts, count))
        for texts, count in ((sources.train, calibration), (sources.held_out, held_out))
    ]
    if len(parts[0]) < calibration or len(parts[1]) < held_out:
        raise PromptError("there is too little Python source on this machine to cut prompts from")
    return PromptSet(parts[0], parts[1], "Python source of this machine")


def _prompts(texts: Mapping[str, str], count: int) -> Iterator[Prompt]:
    """One prompt from each file that has any."""
    for text in texts.values():
        if count == 0:
            return
        if snippets := _snippets(text):
            count -= 1
            yield Prompt(snippets[0])


def _snippets(text: str) -> list[str]:
    try:
        return cut_snippets(text)
    except (SyntaxError, tokenize.TokenError):  # templates, Python 2
        return []


def order_key(name: str) -> bytes:
    """Another hash than that of the split, whose order would separate the parts."""
    return _digest(f"place of {name}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
