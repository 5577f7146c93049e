"""Which storages are accepted, and that their errors are one line without a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipopt.errors import OutputError, SearchError, UsageError
from skipopt.storage import backends


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sqlite:///trials.db", "SQLite cannot be shared"),
        ("sqlite+pysqlite:////tmp/trials.db", "SQLite cannot be shared"),
        ("oracle://u:secret@host/db", "'oracle'"),
        ("postgresql://u:secret@host:port/db", "cannot read the URL"),
        ("://u:secret@host", "cannot read the URL"),
        ("", "empty"),
    ],
)
def test_unsupported_storages_are_refused_without_the_password(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        backends.open_storage(spec)
    hint = str(refused.value.hint)
    assert "secret" not in f"{refused.value} {hint}"
    assert "journal file" in hint or "postgresql://" in hint


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("postgresql://u:secret@host:5432/db", "postgresql://host:5432/db"),
        ("postgres://u:secret@host/db?password=secret", "postgresql://host/db"),
        ("a/b.journal", "the journal a/b.journal"),
    ],
)
def test_messages_show_the_storage_without_user_and_password(spec: str, shown: str) -> None:
    assert backends.redacted_url(spec) == shown


def test_an_unreachable_server_is_one_line() -> None:
    pytest.importorskip("psycopg")
    unreachable = "postgresql://u:secret@127.0.0.1:9/x"
    with pytest.raises(SearchError, match=r"cannot reach postgresql://127\.0\.0\.1:9/x") as error:
        backends.open_storage(unreachable)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_missing_driver_says_what_to_install() -> None:
    with pytest.raises(UsageError, match="pg8000 is not installed") as refused:
        backends.open_storage("postgresql+pg8000://u:secret@127.0.0.1:9/x")
    assert refused.value.hint == "pip install 'skipopt[storage]'"


@pytest.mark.parametrize(
    "content",
    [
        b"one line",
        b"one line\n",
        b"two\nlines\n",
        b"schema: 1\nenabled: true\n",
        b'{"prompt": "a"}\n{"prompt": "b"}\n',
        b"[1, 2]\n",
        b"17\n",
        b"\n",
        b"\xff\xfe\x00binary",
        b"\x00" * 40,
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SearchError, match="not a search journal"):
        backends.open_storage(str(path))
    assert path.read_bytes() == content


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        backends.open_storage(str(tmp_path / "none" / "journal"))
