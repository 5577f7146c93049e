"""Journal files: an Optuna operation on each line, appended by any number of processes.

A line that is no operation (blank, torn, a mark of a merge conflict) is left out by every process
that reads the file; the others count.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from skipopt.errors import SearchError
from skipopt.files import lock

LOCK_TIMEOUT = 5  # seconds after which a lock file counts as left by a killed process
RECORD_START = b'{"op_code":'  # the first bytes of every operation
ENOUGH = 100  # lines of a file that is no journal that are looked at
STUDY, TRIAL = 0, 4  # codes of operations
# What an operation that skipopt or Optuna writes must hold, by its code.
KEYS: Mapping[int, tuple[str, ...]] = {
    STUDY: ("study_name", "directions"),
    1: ("study_id",),
    2: ("study_id", "user_attr"),
    3: ("study_id", "system_attr"),
    TRIAL: ("study_id", "datetime_start"),
    5: ("trial_id", "param_name", "param_value_internal", "distribution"),
    6: ("trial_id", "state", "values"),
    7: ("trial_id", "step", "intermediate_value"),
    8: ("trial_id", "user_attr"),
    9: ("trial_id", "system_attr"),
    10: (),
}


@dataclass(frozen=True, slots=True)
class JournalContent:
    """What is in a file.

    Attributes:
        codes: of its operations.
        damaged: numbers of the lines that are none, or hold more than one; the first is 1.
        is_torn: its last line has no end, as a killed process leaves it.
        size: bytes.
    """

    codes: tuple[int, ...]
    damaged: tuple[int, ...]
    is_torn: bool
    size: int

    @property
    def is_journal(self) -> bool:
        """Whether it holds an operation, or was left before the first was complete."""
        return bool(self.codes) or not self.size or (self.is_torn and not self.damaged)


def read_content(path: Path) -> JournalContent:
    """What is in a file, whatever it is."""
    codes: list[int] = []
    damaged: list[int] = []
    line, size = b"\n", 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            size += len(line)
            if (record := read_record(line)) is not None:
                codes.append(record["op_code"])
            if line.endswith(b"\n"):
                if record is None or line.rfind(RECORD_START) > 0:
                    damaged.append(number)
            elif not RECORD_START.startswith(line[: len(RECORD_START)]):
                damaged.append(number)
            if not codes and len(damaged) == ENOUGH:
                break
    return JournalContent(tuple(codes), tuple(damaged), not line.endswith(b"\n"), size)


def read_record(line: bytes) -> dict[str, Any] | None:
    """The operation at the end of a line, behind the rest of a torn one; None if there is none."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line[max(0, line.rfind(RECORD_START)) :])
    except (ValueError, RecursionError):
        return None
    return record if _is_operation(record) else None


def _is_operation(record: object) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("worker_id"), str):
        return False
    keys = KEYS.get(code) if isinstance(code := record.get("op_code"), int) else None
    return keys is not None and all(key in record for key in keys)


def holds_trials(path: Path) -> bool:
    """Whether a file is a journal with trials."""
    return path.exists() and TRIAL in read_content(path).codes


def is_unused(path: Path) -> bool:
    """Whether a file is a journal without any trial, as an early end of a search leaves it."""
    if not path.is_file():
        return False
    content = read_content(path)
    return content.is_journal and TRIAL not in content.codes


def damage_note(path: Path) -> str | None:
    """A line about damaged lines; None if there are none."""
    if not path.is_file() or not (damaged := read_content(path).damaged):
        return None
    numbers = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
    lines = f"line {numbers} is" if len(damaged) == 1 else f"lines {numbers} are"
    return f"{path}: {lines} damaged; all trials that can be read count"


def open_journal(path: Path, lock_timeout: int = LOCK_TIMEOUT) -> JournalStorage:
    """Open a journal that several processes may write to, and any may be killed.

    Args:
        path: the file; created if there is none.
        lock_timeout: seconds after which the lock of a killed process is broken, on systems
            where it does not end with the process.

    Raises:
        SearchError: the file is not a journal.
        OSError: it cannot be read or written.
    """
    path = path.resolve()
    _check(path)
    try:
        return JournalStorage(_Backend(path, RepairingLock(path, lock_timeout)))
    except (ValueError, KeyError, TypeError, AssertionError):
        raise _not_a_journal(path) from None


def _check(path: Path) -> None:
    """Raise SearchError if the file is no journal, or lacks the line that names its study."""
    if not path.exists():
        return
    content = read_content(path)
    if not content.is_journal:
        raise _not_a_journal(path)
    if TRIAL in content.codes and STUDY not in content.codes[: content.codes.index(TRIAL)]:
        raise SearchError(
            f"{path}: the first line, which names the search, is damaged or missing",
            hint="put it back, or begin anew with --overwrite",
        )


def _not_a_journal(path: Path) -> SearchError:
    return SearchError(
        f"{path} is not a search journal", hint="move it away, or name another file"
    )


class _Backend(JournalFileBackend):
    """Reads a journal without its damaged lines, which have no number."""

    def __init__(self, path: Path, lock_obj: RepairingLock) -> None:
        super().__init__(str(path), lock_obj)
        self._path = path
        self._ends = [0]  # where the operations of each number begin

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        number = min(log_number_from, len(self._ends) - 1)
        with self._path.open("rb") as file:
            file.seek(self._ends[number])
            while (line := file.readline()).endswith(b"\n"):
                if (record := read_record(line)) is None:
                    continue
                number += 1
                if number == len(self._ends):
                    self._ends.append(file.tell())
                if number > log_number_from:
                    yield record


class RepairingLock(JournalFileOpenLock):
    """A journal's lock that also removes an unfinished last line.

    A process killed while writing leaves part of a line. A line appended behind it would be
    damaged too. The lock is one on the file itself, which ends with its process; where the system
    has none, a lock file beside it.
    """

    def __init__(self, path: Path, timeout: int) -> None:
        super().__init__(str(path), grace_period=timeout)
        self._path = path
        self._file: BinaryIO | None = None
        # An object of its own: Optuna breaks an old lock by calling `release` itself.
        self._other = JournalFileOpenLock(str(path), grace_period=timeout)
        self._has_lock_file = False

    def acquire(self) -> bool:
        self._file = self._path.open("rb+")
        try:
            if not lock(self._file):
                self._has_lock_file = self._other.acquire()
            truncate_torn_line(self._file)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        if self._has_lock_file:
            self._has_lock_file = False
            self._other.release()
        if self._file is not None:
            self._file.close()
            self._file = None


def truncate_torn_line(file: BinaryIO) -> None:
    """Remove everything behind the last newline."""
    size = file.seek(0, 2)
    if not size:
        return
    file.seek(-1, 2)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
