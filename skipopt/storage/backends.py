"""An Optuna storage from what `--storage` names, and its failures in words.

A name without `://` is a journal file; PostgreSQL and MySQL are reached by URL. A password is
never part of a message. Knows nothing of trials.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from skipopt.errors import OutputError, SearchError, SkipoptError, UsageError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

LOCK_SECONDS = 5  # a journal's lock that is older was left behind by a killed worker
CONNECT_SECONDS = 10
TRIES = 5  # to create the tables, which two workers may do at the same moment
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
KINDS = "a PostgreSQL or MySQL URL, or the name of a journal file"
EVERY_LINE = b'{"op_code":'  # begins so, in an Optuna journal


def check_storage(spec: str) -> None:
    """Before anything is loaded.

    Raises:
        UsageError: not a storage that many workers can share.
    """
    if is_file(spec):
        if not spec.strip():
            raise UsageError("--storage is empty", hint=f"give {KINDS}")
        return
    url = _parse(spec)
    if url.get_backend_name() == "sqlite":
        raise UsageError(
            "SQLite cannot be shared by many workers: they would lock each other out",
            hint=f"give {KINDS}",
        )
    if url.get_backend_name() not in DRIVERS:
        raise UsageError(
            f"cannot keep a study on {url.get_backend_name()!r}", hint=f"give {KINDS}"
        )


def is_file(spec: str) -> bool:
    return "://" not in spec


def place_of(spec: str) -> str:
    """What messages call the storage: nothing that a URL may hold in secret."""
    if is_file(spec):
        return f"the journal {spec}"
    url = _parse(spec)
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host or ''}{port}/{url.database or ''}"


def open_storage(spec: str) -> BaseStorage:
    """The storage, with its tables made where it is new.

    Raises:
        UsageError: not a storage that can be shared, or its driver is not installed.
        SearchError: not to be reached, or refused us.
        OutputError: a journal file that cannot be read or written.
    """
    check_storage(spec)
    with translate_errors(spec):
        return open_file(Path(spec)) if is_file(spec) else _open_database(_parse(spec))


def open_file(path: Path) -> JournalStorage:
    """A journal that several processes may write to, and any of them may be killed.

    Raises:
        SearchError: not a journal.
        OSError: it cannot be read or written.
    """
    path = path.resolve()  # the lock is a link, which must lead to the file from anywhere
    try:
        check_beginning(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return JournalStorage(JournalFileBackend(str(path), lock_obj=RepairingLock(path)))
    except (ValueError, KeyError, TypeError, AssertionError):
        raise SearchError(
            f"{path} is not a search journal", hint="delete it, or name another file"
        ) from None


class RepairingLock(JournalFileSymlinkLock):
    """Whoever may write next first cuts off the line that a killed writer left unfinished."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), grace_period=LOCK_SECONDS)
        self._path = path

    def acquire(self) -> bool:
        super().acquire()
        try:
            cut_torn_line(self._path)
        except OSError:
            self.release()
            raise
        return True


def check_beginning(path: Path) -> None:
    """Raises ValueError where the file does not begin as a journal does."""
    if not path.exists():
        return
    with path.open("rb") as file:
        begin = file.read(len(EVERY_LINE))
    if not EVERY_LINE.startswith(begin):  # shorter only where it was torn there
        raise ValueError(f"{path} does not begin as a journal does")


def cut_torn_line(path: Path) -> None:
    """What is appended to an unfinished line would become part of it, and be lost."""
    with path.open("rb+") as file:
        size = file.seek(0, 2)
        if not size:
            return
        file.seek(-1, 2)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def translate_errors(spec: str) -> Iterator[None]:
    """Turn whatever a storage raises into one line and a hint."""
    try:
        yield
    except SkipoptError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot use {place_of(spec)}: {error.strerror or error}",
            hint="free some space, or name a file in a folder you may write to",
        ) from None
    except (SQLAlchemyError, StorageInternalError) as error:
        # Neither a chain of exceptions nor the statement: they hold the URL.
        raise _database_error(spec, error) from None


def _open_database(url: sqlalchemy.URL) -> RDBStorage:
    for attempt in range(1, TRIES + 1):
        try:
            return RDBStorage(
                url.render_as_string(hide_password=False),
                engine_kwargs={
                    "pool_pre_ping": True,
                    "connect_args": {"connect_timeout": CONNECT_SECONDS},
                },
            )
        except ImportError:
            driver = url.get_driver_name()
            raise UsageError(
                f"the database driver {driver} is not installed",
                hint="pip install 'skipopt[storage]'",
            ) from None
        except (IntegrityError, ProgrammingError):
            if attempt == TRIES:
                raise
            time.sleep(random.random())  # another worker is making the tables
        except RuntimeError as error:
            raise SearchError(
                f"cannot use this database: {str(error).splitlines()[0]}",
                hint="all workers need the same version of Optuna; or use a new database",
            ) from None
    raise AssertionError("the last attempt returns or raises")


def _parse(spec: str) -> sqlalchemy.URL:
    """The URL, with the driver we install where it names none."""
    spec = spec.replace("postgres://", "postgresql://", 1)
    try:
        url = sqlalchemy.make_url(spec)
    except (ArgumentError, ValueError):
        # Not even a part of it is repeated: a password may stand anywhere.
        raise UsageError(
            "cannot read the URL of --storage",
            hint="write it like postgresql://user@host:5432/database",
        ) from None
    name = url.drivername
    return url.set(drivername=f"{name}+{DRIVERS[name]}") if name in DRIVERS else url


def _database_error(spec: str, error: Exception) -> SearchError:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    said = str(getattr(cause, "orig", None) or cause or error)
    password = _parse(spec).password
    said = said.replace(str(password), "***") if password else said
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    line = next((each for each in reversed(lines) if "FATAL" in each), lines[0] if lines else "")
    if any(word in said for word in ("password", "Access denied", "authentication", "role ")):
        return SearchError(
            f"{place_of(spec)} refused the user or the password: {line}",
            hint="check both; a password may also stand in ~/.pgpass or PGPASSWORD",
        )
    if "does not exist" in said or "Unknown database" in said:
        return SearchError(
            f"{place_of(spec)} has no such database: {line}", hint="create it on the server first"
        )
    return SearchError(
        f"cannot reach {place_of(spec)}: {line}",
        hint="check host, port and that the server runs; finished trials are kept on it",
    )
