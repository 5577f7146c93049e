"""Run command lines as a user types them, and check those that fail."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from skipopt.cli.app import main

RUN_KEYS = (
    "text", "tokens", "prompt_tokens", "cached_tokens", "new_tokens", "method", "seconds",
    "tokens_per_second", "prefill_seconds", "time_to_first_token", "target_forwards",
    "draft_forwards", "drafted", "accepted", "acceptance_rate", "mean_acceptance_length",
    "acceptance_by_position", "put_off_tokens", "stop_reason", "profile", "runtime",
    "memory", "graph_capture",
)  # fmt: skip


# The environment of processes that import the package again.
SUBPROCESS = {**os.environ, "OMP_NUM_THREADS": "1"}


class Ended(NamedTuple):
    """How a command ended: exit status, stdout and stderr."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


def command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """A function that runs a command line in an empty folder, with `stdin` as its input."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main([str(a) for a in arguments])
        return Ended(code, *capsys.readouterr())

    return run


def expect_error(ended: Ended, code: int, *words: str) -> None:
    """Check that stderr has one line and a hint with these words, and stdout nothing."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert len(lines) == 2, ended.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert all(word in ended.err for word in words), ended.err
    assert "Traceback" not in ended.err
    assert "bug" not in ended.err


def spawn(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own."""
    command = [sys.executable, "-m", "skipopt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=SUBPROCESS, **options)
