"""Files are written before results are printed; closed and full streams are no bugs."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command_line import SUBPROCESS, Cli, expect_error

SKIPOPT = f"{sys.executable} -m skipopt"
FULL = "cannot write the output: No space left on device"


class BrokenPipe(io.StringIO):
    """Output that nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class FullDisk(io.StringIO):
    """Output to a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def shell(command: str) -> tuple[int, str]:
    """Exit status of the last `skipopt`, and what was printed on stderr."""
    line = f"{command.replace('skipopt', SKIPOPT)}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=SUBPROCESS, timeout=120
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(("stdout", "code"), [(BrokenPipe, 3), (FullDisk, 1)])
def test_a_verdict_and_its_files_survive_a_stdout_that_takes_nothing(
    cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...],
    stdout: type[io.StringIO], code: int,
) -> None:  # fmt: skip
    from skipopt.measurement.regression_gate import CheckResult
    from skipopt.measurement.threshold import Subject, Threshold

    def regressed(target: Any, profile: Any, prompts: Any, **_: Any) -> Any:
        monkeypatch.setattr(sys, "stdout", stdout())
        threshold, subject = Threshold(1.0, "as asked"), Subject.of(target, [[1, 2, 3]], 64)
        return CheckResult("fail", "slower", threshold, {}, subject)

    monkeypatch.setattr("skipopt.measurement.regression_gate.check", regressed)
    ended = cli("check", "-p", profile, "--junit", "j.xml", "--markdown", "m.md", *options)
    assert ended.code == code, ended.err
    assert "slower" in Path("j.xml").read_text()
    assert "slower" in Path("m.md").read_text()


def test_a_bench_result_is_written_before_it_is_printed(
    cli: Cli, tiny: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.reporting import tables

    made = tables.bench_table

    def table(result: Any) -> Any:
        monkeypatch.setattr(sys, "stdout", BrokenPipe())
        return made(result)

    monkeypatch.setattr(tables, "bench_table", table)
    options = ("--methods", "plain", "--num-prompts", 1, "--repeats", 1, "--max-new-tokens", 12)
    ended = cli("bench", tiny, "--prompts", prompts, *options, "-o", "r.json")
    assert ended.code == 0, ended.err
    assert '"methods"' in Path("r.json").read_text()
    assert "| plain |" in Path("r.md").read_text()


@pytest.mark.parametrize("after", [[], ["--show-rounds"], ["--no-progress"], ["--json"]])
def test_text_that_nobody_reads_is_no_error(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch, after: list[str]
) -> None:
    from skipopt.decoding import api

    check_request = api.resolve_method

    def close_stdout(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(sys, "stdout", BrokenPipe())
        return check_request(*arguments, **options)

    monkeypatch.setattr(api, "resolve_method", close_stdout)
    saved = ("--tune-online", "--save-profile", "tuned.yaml")
    ended = cli("run", tiny, "--prompt", "abc", "--max-new-tokens", 4, *saved, *after)
    assert ended.code == 0, ended.err
    assert "bug" not in ended.err
    assert Path("tuned.yaml").exists()


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("skipopt show {profile} | true", 0, ""),
        ("skipopt run --help | true", 0, ""),
        ("skipopt show {profile} > /dev/full", 1, FULL),
        ("skipopt show /none 0<&- >&- 2>/dev/full", 1, ""),
    ],
)
def test_real_streams(profile: Path, command: str, code: int, error: str) -> None:
    ended, err = shell(command.format(profile=profile))
    assert ended == code, err
    assert "Traceback" not in err
    assert "bug" not in err
    assert error in err
    assert bool(error) == bool(err)


def test_stdout_and_stdin_may_be_closed(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.cli.app import main

    for name in ("stdin", "stdout"):
        monkeypatch.setattr(sys, name, None)
    assert main(["run", str(tiny), "--prompt", "a", "--max-new-tokens", "2", "-q"]) == 0
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["run", str(tiny), "-q"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "-p", "p.yaml", "--markdown", "p.yaml"], "--markdown 'p.yaml' would"),
        (["check", "-p", "p.yaml#name", "--junit", "link"], "--junit 'link' would overwrite"),
        (["check", "-p", "p.yaml", "--junit", "x", "--markdown", "./x"], "overwrite --junit"),
        (["check", "-p", "p.yaml", "--baseline", "link", "--junit", "link"], "--junit 'link'"),
        (["bench", "--prompts", "p.yaml", "-o", "sub/../p.yaml"], "overwrite --prompts"),
        (["bench", "-p", "table.md", "-o", "table.json"], "the table 'table.md' would"),
        (["bench", "--prompts", "sub", "-o", "sub/old.json"], "overwrite --prompts"),
        (["search", "model.gguf", "-o", "model.gguf"], "overwrite MODEL"),
        (["run", "--prompt-file", "link", "--save-profile", "p.yaml"], "overwrite --prompt"),
        (["show", "page.html", "-o", "page.html"], "overwrite FILE"),
        (["search", "--config", "c.yaml", "-o", "c.yaml"], "overwrite --config"),
    ],
)  # fmt: skip
def test_no_output_replaces_an_input(cli: Cli, arguments: list[str], words: str) -> None:
    Path("sub").mkdir()
    for name in ("p.yaml", "table.md", "sub/old.json", "model.gguf", "page.html"):
        Path(name).write_text("old")
    Path("c.yaml").write_text("trials: 3\n")
    Path("link").symlink_to("p.yaml")
    expect_error(cli(*arguments), 2, words, "another file")
    assert Path("p.yaml").read_text() == "old"
