"""What is printed: JSON in any encoding, and no command to the terminal."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.table import Table
from rich.text import Text
from support.profiles import full_profile

from skipopt.cli.output import Output, print_error

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\r\x7f"
DOCUMENT = {"text": "naïve — 日本 \ud83d", "tokens": [1]}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16", "shift_jis"])
def test_json_is_complete_in_every_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    monkeypatch.setattr(sys, "stdout", stream)
    Output(json=True).result(DOCUMENT)
    stream.flush()
    assert json.loads(raw.getvalue().decode(encoding)) == DOCUMENT


def test_json_is_readable_where_the_encoding_has_the_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Output(json=True).result({"text": "naïve"})
    assert "naïve" in capsys.readouterr().out


def is_harmless(printed: str) -> bool:
    return all(each.isprintable() or each in "\n\t" for each in printed)


def test_text_of_files_gives_the_terminal_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=ESCAPES)
    table.add_column(ESCAPES)
    table.add_row(ESCAPES)
    Output().result({}, Text(ESCAPES), table, f"[bold]{ESCAPES}")
    Output().note(ESCAPES)
    print_error(ESCAPES, ESCAPES)
    printed, told = capsys.readouterr()
    assert is_harmless(printed)
    assert is_harmless(told)
    assert printed.count("owned") == 5
    assert told.count("owned") == 3


def test_a_profile_gives_the_terminal_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from skipopt.reporting.profiles import profile_text

    profile = full_profile()
    model = profile.model.model_copy(update={"id": ESCAPES})
    off = profile.model_copy(update={"enabled": False, "reason": ESCAPES, "model": model})
    Output().result({}, profile_text(off))
    printed = capsys.readouterr().out
    assert is_harmless(printed)
    assert printed.count("owned") == 2


@pytest.mark.parametrize("width", [20, 1])
def test_a_narrow_terminal_shows_everything(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from skipopt.reporting.profiles import profile_text

    monkeypatch.setenv("COLUMNS", str(width))
    Output().result({}, profile_text(full_profile()))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "builtin" in "".join("".join(lines).split())
