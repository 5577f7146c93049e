"""The training text of the built-in model: the running interpreter's standard library.

Without tests and generated tables. One file in sixteen, chosen by a hash of its path, is held out.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HELD_OUT_SHARE = 16
LEFT_OUT_FOLDERS = {"test", "tests", "idle_test", "site-packages", "__pycache__", "pydoc_data"}
# Character tables and build settings: a fifth of all bytes, without structure to learn.
GENERATED = re.compile(
    r"encodings/(cp|mac_|iso8859|koi8|kz|big5|euc|gb|shift|johab|hp_|ptcp|tis)|_sysconfigdata|"
    r"config-\d|(^|/)test_|(^|/)_test"
)


def source_files() -> Iterator[tuple[str, Path]]:
    """(path relative to the library, path) of every file used, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not LEFT_OUT_FOLDERS.intersection(relative.parts) and not GENERATED.search(
            relative.as_posix()
        ):
            yield relative.as_posix(), path


def bucket(name: str) -> int:
    """A number from 0 to 15, from a hash of the file's name."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_SHARE


def read_corpus() -> tuple[dict[str, str], dict[str, str]]:
    """(training texts, held-out texts), each keyed by relative path."""
    train: dict[str, str] = {}
    held_out: dict[str, str] = {}
    for name, path in source_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.strip():
            (held_out if bucket(name) == 0 else train)[name] = text
    return train, held_out
