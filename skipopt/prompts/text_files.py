"""Text of a file: UTF-8 or UTF-16, with or without a byte order mark, packed with gzip or not."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from skipopt.errors import PromptError

GZIP_MAGIC = b"\x1f\x8b"
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Least share of characters below 256 in UTF-16 text without a mark: fewer could be chance.
LATIN_SHARE = 0.25
MOST_LOW_ZEROS = 0.25  # low bytes that are zero, for each high byte that is


def read_text(path: Path) -> str:
    """The text of a file, its lines separated by `\\n`.

    Raises:
        PromptError: missing, unreadable, damaged, or not text.
    """
    data = _unpack(path, _read_bytes(path))
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError:
        raise _not_text(path) from None
    if "\0" in text:
        raise _not_text(path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PromptError(
            f"there are no prompts at {str(path)!r}", hint="check the path"
        ) from None
    except OSError as error:
        raise PromptError(
            f"cannot read {str(path)!r}: {error.strerror}", hint="check the file's permissions"
        ) from None


def _unpack(path: Path, data: bytes) -> bytes:
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise PromptError(
            f"{path}: cannot unpack it with gzip: {error}", hint="the file may be incomplete"
        ) from None


def _encoding(data: bytes) -> str:
    marked = next((name for mark, name in MARKS if data.startswith(mark)), None)
    return marked or _unmarked_utf16(data) or "utf-8"


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 in the byte order in which many high bytes are zero; None for other text.

    Few low bytes are zero in text: those of U+0100 and of some emoji.
    """
    if len(data) % 2 or b"\0" not in data:
        return None
    for high, name in ((data[1::2], "utf-16-le"), (data[::2], "utf-16-be")):
        zeros = high.count(0)
        low_zeros = data.count(0) - zeros
        if zeros >= LATIN_SHARE * len(high) and low_zeros <= MOST_LOW_ZEROS * zeros:
            return name
    return None


def _not_text(path: Path) -> PromptError:
    return PromptError(
        f"{path}: the file is not text", hint="save the prompts as plain text in UTF-8"
    )
