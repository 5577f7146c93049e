"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from skipopt.errors import OutputError, UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, in the same folder; it replaces `path` at the end.

    On an exception `path` stays as it was, and the temporary file is removed. Links are followed.
    A device or pipe such as `/dev/stdout` is yielded itself, since it cannot be replaced.

    Raises:
        OutputError: no such folder, not writable, disk full, or `path` is a folder.
    """
    try:
        if _is_device(path):
            yield path
        else:
            yield from _replacing(Path(os.path.realpath(path)))
    except OSError as error:
        raise _output_error(path, error) from None


def _replacing(path: Path) -> Iterator[Path]:
    _refuse_folder(path)
    temporary = _temporary(path)
    try:
        temporary.open("xb").close()  # fails here rather than inside the caller's library
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to `path`, by `replacing`.

    Half a character, as in a path that is not UTF-8, is written as JSON escapes it: `\\udcff`.

    Raises:
        OutputError: as `replacing`.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes that lock `path` too waiting until the block ends.

    The lock is one on the hidden file `.NAME.lock` beside it, which stays there empty: `path`
    itself is replaced while others wait. It ends with its process. Windows has no such lock.

    Raises:
        OutputError: the file cannot be made or locked.
    """
    place = Path(os.path.realpath(path))
    try:
        file = place.with_name(f".{place.name}.lock").open("ab")
    except OSError as error:
        raise _output_error(path, error) from None
    with file:
        try:
            _lock(file)
        except OSError as error:
            raise _output_error(path, error) from None
        yield


def _lock(file: BinaryIO) -> None:
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def check_writable(path: Path) -> None:
    """Check before a long search that `path` can be written; leaves no file behind.

    Raises:
        OutputError: as `replacing`, except for a disk that fills up later.
    """
    try:
        if _is_device(path):
            path.open("a").close()
        else:
            _probe(Path(os.path.realpath(path)))
    except OSError as error:
        raise _output_error(path, error) from None


def check_apart(output: Path, others: Mapping[str, Path], what: str = "the output") -> None:
    """Check before any work that an output is none of the other files of a command.

    Args:
        others: files and folders by what they are called; they need not exist. A file in one of
            the folders is one of them.
        what: what the output is called.

    Raises:
        UsageError: writing `output` would overwrite another file. Devices are no files.
    """
    if _is_device(output):
        return
    place = Path(os.path.realpath(output))
    for name, other in others.items():
        real = Path(os.path.realpath(other))
        linked = output.exists() and other.is_file() and output.samefile(other)
        if real == place or linked or (output.exists() and real in place.parents):
            raise UsageError(
                f"{what} {str(output)!r} would overwrite {name}", hint="write to another file"
            )


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _probe(path: Path) -> None:
    _refuse_folder(path)
    temporary = _temporary(path)
    try:
        temporary.open("xb").close()
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_folder(path: Path) -> None:
    # os.replace would report it only after the work, and differently on each system.
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _temporary(path: Path) -> Path:
    """A new name in the same folder, where replacing is atomic."""
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
