"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from skipopt.errors import OutputError, UsageError

# Errors of a file system that has no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


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


def append_atomically(path: Path, text: str) -> None:
    """Append whole lines (as UTF-8) with one write, while other processes that append wait.

    A last line without an end, left by a process that was killed, gets one first, so that what is
    appended stands on lines of its own. A device or pipe is written to as it is.

    Raises:
        OutputError: no such folder, not writable, or the disk is full.
    """
    content = text.encode(errors="backslashreplace")
    try:
        with path.open("ab") as file:
            lock(file)
            _write_at_end(path, file, content)
    except OSError as error:
        raise _output_error(path, error) from None


def _write_at_end(path: Path, file: BinaryIO, content: bytes) -> None:
    if not _is_device(path) and _is_torn(path):
        content = b"\n" + content
    size = 0 if _is_device(path) else path.stat().st_size
    try:
        file.write(content)
        file.flush()
        if not _is_device(path):
            os.fsync(file.fileno())
    except OSError:
        if not _is_device(path):
            os.truncate(path, size)  # part of a line would be read as a damaged one
        raise


def _is_torn(path: Path) -> bool:
    """Whether the file's last line has no end."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes that lock `path` too waiting until the block ends.

    The lock is one on the hidden file `.NAME.lock` beside it, which stays there empty: `path`
    itself is replaced while others wait. It ends with its process. Windows has no such lock.

    Raises:
        OutputError: the file cannot be made or locked.
    """
    try:
        file = _lock_file(path).open("ab")
    except OSError as error:
        raise _output_error(path, error) from None
    with file:
        try:
            lock(file)
        except OSError as error:
            raise _output_error(path, error) from None
        yield


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep other processes from writing `path` until the block ends.

    By the same hidden file as `locked`, which is removed at the end. Where the file system has no
    locks, nothing is kept.

    Raises:
        OutputError: another process writes it, or the hidden file cannot be made.
    """
    place = _lock_file(path)
    try:
        file = _locked_file(place)
    except BlockingIOError:
        raise OutputError(
            f"another command is writing {str(path)!r}",
            hint="wait until it has ended, or write to another file",
        ) from None
    except OSError as error:
        raise _output_error(path, error) from None
    with file:
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


def _locked_file(place: Path) -> BinaryIO:
    """The file, open and locked; one that its last owner has just removed is made again."""
    while True:
        file = place.open("ab")
        try:
            lock(file, wait=False)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), place.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock_file(path: Path) -> Path:
    place = Path(os.path.realpath(path))
    return place.with_name(f".{place.name}.lock")


def lock(file: BinaryIO, wait: bool = True) -> bool:
    """Lock an open file against other processes; the lock ends when the file is closed.

    Returns:
        False where the system or the file system has no such lock.

    Raises:
        BlockingIOError: another process has the lock, and `wait` is false.
        OSError: it cannot be locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


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
