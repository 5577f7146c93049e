"""Write a file whole or not at all. Knows nothing of what is in it."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from uuid import uuid4

from skipopt.errors import OutputError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Put text (as UTF-8) or bytes at `path`; until it is complete, what stood there stays.

    Links are followed. A device or pipe such as `/dev/stdout` is written to, never replaced.

    Raises:
        OutputError: the folder is missing or closed to writing, the disk is full, or `path` is
            itself a folder.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if _is_device(path):
            path.write_bytes(data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise _output_error(path, error) from None


def check_writable(path: Path) -> None:
    """Fail now rather than after a long search; leaves no file behind.

    Raises:
        OutputError: as `write_atomically` would, a disk that fills up later excepted.
    """
    try:
        if _is_device(path):
            path.open("a").close()
        else:
            _probe(Path(os.path.realpath(path)))
    except OSError as error:
        raise _output_error(path, error) from None


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _replace(path: Path, data: bytes) -> None:
    _refuse_folder(path)
    draft = _neighbour(path)
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            draft.chmod(path.stat().st_mode & 0o777)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _probe(path: Path) -> None:
    _refuse_folder(path)
    draft = _neighbour(path)
    try:
        draft.open("x").close()
    finally:
        draft.unlink(missing_ok=True)


def _refuse_folder(path: Path) -> None:
    # Left to os.replace, this would surface only after the work, and differently per system.
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _neighbour(path: Path) -> Path:
    """A name nobody has, in the same folder: only there is replacing one step."""
    return path.with_name(f".skipopt-{uuid4().hex}.tmp")


def _output_error(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {str(path)!r}: {reason}", hint=_hint(path, error))


def _hint(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or write to another disk"
    if error.errno == errno.EISDIR:
        return "name a file inside that folder"
    if error.errno == errno.ENOENT and not path.parent.exists():
        return f"make the folder first: mkdir -p {shlex.quote(str(path.parent))}"
    return "choose another place, where you may write"
