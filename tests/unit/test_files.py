"""Files are written completely or not at all, and every failure is one line with a hint."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skipopt.errors import OutputError
from skipopt.files import (
    append_atomically,
    check_writable,
    locked,
    only_writer,
    replacing,
    write_atomically,
)

OLD = "what stood there\n"
Writer = Callable[[Path], None]


def write(path: Path) -> None:
    write_atomically(path, "new\n")


BOTH = pytest.mark.parametrize("writer", [write, check_writable])


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def refuse_new_files(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Creating a file fails. (A chmod would not stop root.)"""
    really_open = Path.open

    def fake_open(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return failing(code)() if "x" in mode else really_open(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fake_open)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "out.yaml"
    path.write_text(OLD)
    return path


def test_a_new_file_holds_exactly_the_text(tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    write_atomically(path, "γ: 4\nτ: 0\n")
    assert path.read_bytes() == "γ: 4\nτ: 0\n".encode()
    assert os.listdir(tmp_path) == ["out.yaml"]


def test_half_a_character_is_written_as_json_escapes_it(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    halves = {"é": ["\udcff", "\ud83d", "\ude42"]}
    write_atomically(path, json.dumps(halves, ensure_ascii=False))
    assert json.loads(path.read_text(encoding="utf-8")) == halves


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    write_atomically(path, b"\x89PNG\r\n\x00\xff")
    assert path.read_bytes() == b"\x89PNG\r\n\x00\xff"


def test_an_old_file_is_replaced(file: Path) -> None:
    write(file)
    assert file.read_text() == "new\n"
    assert os.listdir(file.parent) == [file.name]


def test_the_old_file_remains_until_the_new_one_is_on_disk(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(file.read_text()))
    write(file)
    assert seen == [OLD]
    assert file.read_text() == "new\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_modes_are_those_of_any_new_file_or_of_the_old_one(file: Path) -> None:
    fresh, plain = file.with_name("fresh"), file.with_name("plain")
    write(fresh)
    plain.write_text("")
    assert fresh.stat().st_mode == plain.stat().st_mode
    file.chmod(0o640)
    write(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_link_is_followed(file: Path) -> None:
    link = file.with_name("link.yaml")
    link.symlink_to(file)
    write(link)
    assert link.is_symlink()
    assert file.read_text() == "new\n"


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "write":
        refuse_new_files(monkeypatch, errno.ENOSPC)
    else:
        monkeypatch.setattr(os, name, failing(errno.ENOSPC))
    with pytest.raises(OutputError, match="No space left on device") as caught:
        write(file)
    assert str(file) in str(caught.value)
    assert "free some space" in str(caught.value.hint)
    assert file.read_text() == OLD
    assert os.listdir(file.parent) == [file.name]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(file)
    assert file.read_text() == OLD
    assert os.listdir(file.parent) == [file.name]


@BOTH
def test_a_folder_is_no_file(writer: Writer, file: Path) -> None:
    with pytest.raises(OutputError, match="Is a directory") as caught:
        writer(file.parent)
    assert caught.value.hint == "name a file inside that folder"
    assert os.listdir(file.parent) == [file.name]


@BOTH
def test_a_missing_folder_is_named(writer: Writer, tmp_path: Path) -> None:
    path = tmp_path / "no such" / "out.yaml"
    with pytest.raises(OutputError, match="No such file") as caught:
        writer(path)
    assert caught.value.hint == f"make the folder first: mkdir -p '{path.parent}'"
    assert os.listdir(tmp_path) == []


@BOTH
def test_a_folder_closed_to_writing(
    writer: Writer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_new_files(monkeypatch, errno.EACCES)
    with pytest.raises(OutputError, match="Permission denied") as caught:
        writer(file)
    assert str(caught.value).count("\n") == 0
    assert caught.value.hint
    assert file.read_text() == OLD


@BOTH
@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="root may write where others may not"
)
def test_a_folder_really_closed_to_writing(writer: Writer, file: Path) -> None:
    file.parent.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            writer(file)
    finally:
        file.parent.chmod(0o700)


@BOTH
def test_a_file_is_no_folder(writer: Writer, file: Path) -> None:
    with pytest.raises(OutputError, match="Not a directory"):
        writer(file / "out.yaml")


def test_checking_changes_nothing(file: Path) -> None:
    before = file.stat().st_mtime_ns
    check_writable(file)
    check_writable(file.with_name("new.yaml"))
    assert os.listdir(file.parent) == [file.name]
    assert (file.read_text(), file.stat().st_mtime_ns) == (OLD, before)


# A pipe stands for every device, because a mistake would destroy a real one.
@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without a reader, writing would block
    yield path, reader
    os.close(reader)


def test_a_device_is_written_to_and_never_replaced(
    pipe: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reader = pipe
    check_writable(path)
    write(path)
    assert os.read(reader, 100) == b"new\n"
    monkeypatch.setattr(Path, "write_bytes", failing(errno.ENOSPC))
    with pytest.raises(OutputError, match="No space left on device"):
        write(path)
    assert path.is_fifo()
    assert os.listdir(path.parent) == [path.name]


def test_another_librarys_writer_replaces_the_file_at_the_end(file: Path) -> None:
    with replacing(file) as temporary:
        temporary.write_text("new\n")
        assert file.read_text() == OLD
    assert file.read_text() == "new\n"
    assert os.listdir(file.parent) == [file.name]


def test_an_exception_while_writing_leaves_the_file(file: Path) -> None:
    def interrupted() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == OLD
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such lock")
def test_a_lock_keeps_others_waiting(file: Path) -> None:
    seen: list[str] = []

    def other() -> None:
        with locked(file):
            seen.append(file.read_text())

    with locked(file):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.1)
        write(file)
    thread.join()
    assert seen == ["new\n"]


def test_a_lock_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"), locked(tmp_path / "missing" / "file"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such lock")
def test_one_command_writes_a_file_at_a_time(file: Path) -> None:
    def write_too() -> None:
        with only_writer(file):
            pytest.fail("two commands write")

    for _ in range(2):
        with only_writer(file):
            with pytest.raises(OutputError, match="another command is writing"):
                write_too()
            write(file)
    assert os.listdir(file.parent) == [file.name]


def test_a_file_system_without_locks_keeps_nobody_out(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with only_writer(file), locked(file):
        write(file)
    assert file.read_text() == "new\n"


# --- appending


def test_lines_are_appended_after_a_last_line_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_atomically(path, "first\n")
    path.write_text("first\ncut sho")
    append_atomically(path, "next\n")
    assert path.read_text().splitlines() == ["first", "cut sho", "next"]


def test_a_full_disk_leaves_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    append_atomically(path, "first\n")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OutputError, match="No space left"):
        append_atomically(path, "next\n")
    assert path.read_text() == "first\n"


def test_appending_to_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        append_atomically(tmp_path / "no" / "file", "line\n")
