"""The file of a `DraftMemory`.

A line that says what it is, a line of JSON (the tokenizer's fingerprint, the number of tokens of
each text, a checksum of the tokens), then the tokens of all texts as little-endian int32, the text
that was used last at the end.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipopt.errors import MemoryFileError
from skipopt.files import replacing

START = b"skipopt draft memory "
VERSION = b"1"
PRIVATE = 0o600  # texts are nobody else's business
TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class StoredTexts:
    """What a file holds.

    Attributes:
        tokenizer: fingerprint of the texts' tokenizer; None if it is not known.
        texts: the latest used last.
    """

    tokenizer: str | None
    texts: tuple[array[int], ...]


def write_texts(path: Path, tokenizer: str | None, texts: Sequence[array[int]]) -> None:
    """Write the file whole or not at all; a new one can be read by its owner alone.

    Raises:
        OutputError: it cannot be written.
    """
    data = _packed(texts)
    head = {
        "tokenizer": tokenizer,
        "lengths": [len(text) for text in texts],
        "checksum": zlib.crc32(data),
    }
    content = b"\n".join([START + VERSION, json.dumps(head).encode(), data])
    with replacing(path) as temporary:
        temporary.chmod(PRIVATE)
        temporary.write_bytes(content)


def read_texts(path: Path) -> StoredTexts:
    """Read the file.

    Raises:
        MemoryFileError: it cannot be read, is none of a memory, is of another version, or is
            damaged.
    """
    if path.exists() and not path.is_file():
        raise MemoryFileError(f"{str(path)!r} is not a file", hint="name a file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MemoryFileError(
            f"cannot read {str(path)!r}: {error.strerror}", hint="check the path"
        ) from None
    start, _, rest = content.partition(b"\n")
    if not start.startswith(START):
        raise MemoryFileError(
            f"{str(path)!r} is not a memory of texts", hint="name another file; it is unchanged"
        )
    if start != START + VERSION:
        raise MemoryFileError(
            f"{str(path)!r} was written by another version of skipopt",
            hint="use that version, or name another file",
        )
    return _parse(path, rest)


def other_tokenizer(path: Path) -> MemoryFileError:
    """The error for a file whose texts have another tokenizer than expected."""
    return MemoryFileError(
        f"the texts in {str(path)!r} have another tokenizer than this model",
        hint="name another file: models share one only if their tokenizers are the same",
    )


def _parse(path: Path, rest: bytes) -> StoredTexts:
    line, _, data = rest.partition(b"\n")
    try:
        head: dict[str, Any] = json.loads(line)
        lengths, tokenizer = head["lengths"], head["tokenizer"]
        whole = zlib.crc32(data) == head["checksum"] and sum(lengths) * TOKEN_BYTES == len(data)
        if not whole or min(lengths, default=1) < 1:
            raise ValueError
        texts = tuple(_unpacked(data, lengths))
        if min(map(min, texts), default=0) < 0:
            raise ValueError
        return StoredTexts(tokenizer, texts)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MemoryFileError(
            f"{str(path)!r} is damaged", hint="delete it, or name another file"
        ) from None


def _packed(texts: Sequence[array[int]]) -> bytes:
    tokens = array("i")
    for text in texts:
        tokens += text
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens.tobytes()


def _unpacked(data: bytes, lengths: Sequence[int]) -> list[array[int]]:
    tokens = array("i")
    tokens.frombytes(data)
    if sys.byteorder == "big":
        tokens.byteswap()
    texts, start = [], 0
    for length in lengths:
        texts.append(tokens[start : start + length])
        start += length
    return texts
