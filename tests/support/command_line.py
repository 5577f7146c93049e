"""A command line as a user types it, and what is asked of every one that fails."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from skipopt.cli.app import main

RUN_KEYS = (
    "text", "tokens", "prompt_tokens", "new_tokens", "method", "seconds", "tokens_per_second",
    "prefill_seconds", "target_forwards", "draft_forwards", "drafted", "accepted",
    "acceptance_rate", "mean_acceptance_length", "acceptance_by_position", "stop_reason",
    "profile", "runtime", "memory", "graph_capture",
)  # fmt: skip


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


def command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """Runs a command line in an empty folder, with `stdin` as its input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main([str(a) for a in arguments])
        return Ended(code, *capsys.readouterr())

    return run


def expect_error(ended: Ended, code: int, *words: str) -> None:
    """One line and a hint on stderr, nothing on stdout, no traceback."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert len(lines) == 2, ended.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert all(word in ended.err for word in words), ended.err
    assert "Traceback" not in ended.err
    assert "bug" not in ended.err
