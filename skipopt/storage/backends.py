"""Open the Optuna storage that `--storage` names, and translate its errors.

A value without `://` is a journal file; anything else is the URL of a PostgreSQL or MySQL
database. Passwords never appear in messages.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from skipopt.errors import OutputError, SearchError, SkipoptError, UsageError
from skipopt.storage.journal import open_journal

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

CONNECT_TIMEOUT = 10  # seconds
CREATE_ATTEMPTS = 5
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
SUPPORTED = "a PostgreSQL or MySQL URL, or the name of a journal file"
AUTHENTICATION_ERRORS = ("password", "Access denied", "authentication", "role ")


def check_storage(spec: str) -> None:
    """Check the value of `--storage` without opening it.

    Raises:
        UsageError: not a storage that several workers can share.
    """
    if is_journal_file(spec):
        if not spec.strip():
            raise UsageError("--storage is empty", hint=f"give {SUPPORTED}")
        return
    database = _parse_url(spec).get_backend_name()
    if database == "sqlite":
        raise UsageError(
            "SQLite cannot be shared by many workers: they would lock each other out",
            hint=f"give {SUPPORTED}",
        )
    if database not in DRIVERS:
        raise UsageError(f"cannot keep a study on {database!r}", hint=f"give {SUPPORTED}")


def is_journal_file(spec: str) -> bool:
    """Whether `spec` names a file, not a database URL."""
    return "://" not in spec


def redacted_url(spec: str) -> str:
    """The storage as messages show it: without user, password or query."""
    if is_journal_file(spec):
        return f"the journal {spec}"
    url = _parse_url(spec)
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host or ''}{port}/{url.database or ''}"


def open_storage(spec: str) -> BaseStorage:
    """Connect to the storage; a new journal or new tables are created.

    Raises:
        UsageError: not a storage that can be shared, or its driver is not installed.
        SearchError: the database cannot be reached or refuses access; the file is no journal.
        OutputError: the journal cannot be read or written.
    """
    check_storage(spec)
    with translate_errors(spec):
        return open_journal(Path(spec)) if is_journal_file(spec) else _open_database(spec)


@contextmanager
def translate_errors(spec: str) -> Iterator[None]:
    """Turn the exceptions of a storage into a one-line `SkipoptError` with a hint.

    Raises:
        OutputError: the journal cannot be read or written.
        SearchError: the database failed.
    """
    try:
        yield
    except SkipoptError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot use {redacted_url(spec)}: {error.strerror or error}",
            hint="free some space, or name a file in a folder you may write to; "
            "finished trials are kept",
        ) from None
    except (SQLAlchemyError, StorageInternalError) as error:
        # `from None`: the chained exceptions and their statements hold the URL.
        raise _database_error(spec, error) from None


def _open_database(spec: str) -> RDBStorage:
    """Connect, and create the tables, which several workers may attempt at the same time."""
    url = _parse_url(spec)
    for _ in range(CREATE_ATTEMPTS - 1):
        try:
            return _connect(url)
        except (IntegrityError, ProgrammingError):
            time.sleep(random.random())  # another worker is creating the tables
    return _connect(url)


def _connect(url: sqlalchemy.URL) -> RDBStorage:
    try:
        return RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs={
                "pool_pre_ping": True,
                "connect_args": {"connect_timeout": CONNECT_TIMEOUT},
            },
        )
    except ImportError:
        raise UsageError(
            f"the database driver {url.get_driver_name()} is not installed",
            hint="pip install 'skipopt[storage]'",
        ) from None
    except RuntimeError as error:
        raise SearchError(
            f"cannot use this database: {str(error).splitlines()[0]}",
            hint="all workers need the same version of Optuna; or use a new database",
        ) from None


def _parse_url(spec: str) -> sqlalchemy.URL:
    """The URL, with the driver of the extra `skipopt[storage]` unless it names one."""
    spec = spec.replace("postgres://", "postgresql://", 1)
    try:
        url = sqlalchemy.make_url(spec)
    except (ArgumentError, ValueError):
        # The message repeats nothing of the URL: any part may be the password.
        raise UsageError(
            "cannot read the URL of --storage",
            hint="write it like postgresql://user@host:5432/database",
        ) from None
    name = url.drivername
    return url.set(drivername=f"{name}+{DRIVERS[name]}") if name in DRIVERS else url


def _database_error(spec: str, error: Exception) -> SearchError:
    place, message = redacted_url(spec), _database_message(spec, error)
    if any(word in message for word in AUTHENTICATION_ERRORS):
        return SearchError(
            f"{place} refused the user or the password: {_main_line(message)}",
            hint="check both; a password may also stand in ~/.pgpass or PGPASSWORD",
        )
    if "does not exist" in message or "Unknown database" in message:
        return SearchError(
            f"{place} has no such database: {_main_line(message)}",
            hint="create it on the server first",
        )
    return SearchError(
        f"cannot reach {place}: {_main_line(message)}",
        hint="check host, port and that the server runs; finished trials are kept on it",
    )


def _database_message(spec: str, error: Exception) -> str:
    """What the driver said, without the password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    message = str(getattr(cause, "orig", None) or cause or error)
    password = _parse_url(spec).password
    return message.replace(str(password), "***") if password else message


def _main_line(message: str) -> str:
    """The last line with FATAL (PostgreSQL), else the first."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    fatal = [line for line in lines if "FATAL" in line]
    return fatal[-1] if fatal else lines[0] if lines else ""
