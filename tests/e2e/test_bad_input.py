"""Bad input ends in one line and a hint."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from support.command_line import Cli, expect_error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "{tmp}/none", "--prompt", "a"], 1, ["none", "path"]),
        (["run", "no-such-model", "--prompt", "a"], 1, ["no-such-model"]),
        (["run", "", "--prompt", "a"], 1, ["empty", "builtin"]),
        (["search", " ", "-o", "{tmp}/new.yaml"], 1, ["empty", "builtin"]),
        (["run", "{tiny}", "--prompt", ""], 1, ["empty"]),
        (["run", "{tiny}", "--prompt-file", "{tmp}/none.txt"], 1, ["none.txt"]),
        (["run", "{tiny}", "--prompt", "a", "--prompt-file", "b"], 2, ["--prompt-file"]),
        (["run", "{tiny}", "--prompt", "a", "--max-new-tokens", "-3"], 2, ["-3"]),
        (["run", "{tiny}", "--prompt", "a", "--max-new-tokens", "0"], 2, ["max-new-tokens"]),
        (["run", "{tiny}", "--prompt", "a", "--max-new-tokens", "few"], 2, ["--max-new-tokens"]),
        (["run", "{tiny}", "--prompt", "x" * 300, "-q"], 1, ["300", "256"]),
        (["run", "{tiny}", "--prompt", "a", "--method", "magic"], 2, ["magic", "plain"]),
        (["run", "{tiny}", "--prompt", "a", "--method", "layer-skip"], 2, ["--profile"]),
        (["run", "-p", "{tmp}/foo.yaml", "--prompt", "a"], 1, ["foo.yaml", "no option 'foo'"]),
        (["show", "{tmp}/foo.yaml"], 1, ["foo.yaml", "no option 'foo'"]),
        (["bench", "--methods", "layer-skip:foo=1", "-p", "{profile}"], 2, ["no option 'foo'"]),
        (["run", "{tiny}", "--prompt", "a", "--temperature", "-1"], 2, ["temperature"]),
        (["run", "{tiny}", "--prompt", "a", "--top-p", "0"], 2, ["top-p"]),
        (["run", "{tiny}", "--prompt", "a", "--stop", ""], 2, ["stop"]),
        (["run", "{tiny}", "--prompt", "a", "--chat", "-q"], 2, ["template"]),
        (["run", "{tiny}", "--prompt", "a", "--threads", "0"], 2, ["threads"]),
        (["run", "{tiny}", "--prompt", "a\udcff"], 1, ["half a character", "UTF-8"]),
        (["run", "{tiny}", "--prompt", "a", "--seed", str(2**64)], 2, ["seed", str(2**64)]),
        (["run", "{tiny}", "--prompt", "a", "--temperature", "1e-40"], 2, ["1e-40", "use 0"]),
        (["search", "{tiny}", "--timeout", "inf"], 2, ["timeout", "inf"]),
        (["search", "{tiny}", "--timeout", "nan"], 2, ["timeout", "nan"]),
        (["search", "{tiny}", "--skip-ratio", "nan"], 2, ["skip-ratio"]),
        (["search", "{tiny}", "--tau", "nan"], 2, ["tau", "nan"]),
        (["search", "{tiny}", "--gamma", str(10**30)], 2, ["gamma"]),
        (["run", "{tiny}", "--prompt", "a", "--temperature", "nan"], 2, ["temperature", "nan"]),
        (["run", "{tiny}", "--prompt", "a", "--top-p", "nan"], 2, ["top-p", "nan"]),
        (["check", "{tiny}", "-p", "{profile}", "--tolerance", "nan"], 2, ["tolerance", "nan"]),
        (["search", "{tiny}", "--seed", "-1"], 2, ["seed", "-1"]),
        (["train", "heads", "--seed", str(2**64)], 2, ["seed"]),
        (["run", "{tiny}", "--prompt", "a", "--device", "abacus"], 2, ["abacus"]),
        (["run", "{tiny}", "--prompt", "a", "--dtype", "int3"], 2, ["int3"]),
        (["run", "{tiny}", "--prompt", "a", "-p", "{tmp}/none.yaml"], 1, ["none.yaml"]),
        (["run", "{tiny}", "--prompt", "a", "-p", "{tmp}/corrupt.yaml"], 1, ["corrupt.yaml"]),
        (["run", "{tiny}", "--prompt", "a", "--config", "{tmp}/none.yaml"], 2, ["none.yaml"]),
        (["run", "{tiny}", "--prompt", "a", "--config", "{tmp}/unknown.yaml"], 2, ["color"]),
        (["search", "{tiny}", "--prompts", "{tmp}/empty.txt"], 1, ["empty.txt"]),
        (["search", "{tiny}", "--prompts", "{tmp}/none.txt"], 1, ["none.txt"]),
        (["search", "{tiny}", "-o", "{tmp}/none/profile.yaml"], 1, ["cannot write", "mkdir"]),
        (["search", "{tiny}", "-o", "{tmp}"], 1, ["cannot write"]),
        (["search", "{tiny}", "--sampler", "oracle"], 2, ["oracle", "auto"]),
        (["search", "{tiny}", "--objective", "beauty"], 2, ["beauty"]),
        (["search", "{tiny}", "--skip-ratio", "1.5"], 2, ["skip-ratio"]),
        (["search", "{tiny}", "--trials", "0"], 2, ["trials"]),
        (["search", "{tiny}", "--timeout", "0"], 2, ["timeout"]),
        (["search", "{tiny}", "--resume", "--overwrite"], 2, ["--overwrite"]),
        (["search", "{tiny}", "--keep-layers", "0,last"], 2, ["0,last", "--keep-layers 0,-1"]),
        (["search", "{tiny}", "--context-lengths", "64,long"], 2, ["64,long", "512,2048"]),
        (["search", "{tiny}", "--context-lengths", "64,32"], 2, ["must ascend, not 64, 32"]),
        (["search", "{tiny}", "--context-lengths", "99999"], 2, ["99999", "--context-lengths"]),
        (["bench", "{tiny}", "--methods", "plain,magic"], 2, ["magic", "hf-generate"]),
        (["bench", "{tiny}", "--methods", ","], 2, ["--methods"]),
        (["bench", "{tiny}", "--repeats", "0"], 2, ["repeats"]),
        (["bench", "{tiny}", "-o", "{tmp}/none/bench.json"], 1, ["cannot write"]),
        (["bench", "{tiny}", "-o", "{tmp}/bench.md"], 2, ["bench.md"]),
        (["check", "{tiny}"], 2, ["--profile"]),
        (["check", "{tiny}", "-p", "{profile}", "--tolerance", "much"], 2, ["much", "5%"]),
        (["check", "{tiny}", "-p", "{profile}", "--min-speedup", "0"], 2, ["min-speedup"]),
        (["check", "{tiny}", "-p", "{profile}", "--baseline", "{tmp}/no.json"], 1, ["no.json"]),
        (["check", "{tiny}", "-p", "{profile}", "--junit", "{tmp}/no/x.xml"], 1, ["cannot write"]),
        (["show", "{tmp}/none.yaml"], 1, ["none.yaml"]),
        (["show", "{tmp}/corrupt.yaml"], 1, ["corrupt.yaml"]),
        (["show", "{tmp}/other.json"], 1, ["other.json", "bench"]),
        (["train", "eyes"], 2, ["eyes", "heads"]),
        (["train", "heads", "--time-limit", "0"], 2, ["time-limit"]),
        (["train", "heads", "-o", "{tmp}/none/m.safetensors"], 1, ["cannot write"]),
        (["fly"], 2, ["fly"]),
        (["run", "--fly"], 2, ["--fly"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line_and_a_hint(
    cli: Cli,
    tiny: Path,
    profile: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "corrupt.yaml").write_text("schema: [1\nmodel: {")
    (tmp_path / "unknown.yaml").write_text("color: red\n")
    text = profile.read_text()
    (tmp_path / "foo.yaml").write_text(text.replace(": layer-skip", ": layer-skip:foo=1"))
    (tmp_path / "other.json").write_text('{"a": 1}')
    given = [a.format(tmp=tmp_path, tiny=tiny, profile=profile) for a in arguments]
    # Notes, such as the prompts that are used, may come before the error.
    if given[0] in ("run", "search") and "-q" not in given and "--fly" not in given:
        given.append("-q")
    expect_error(cli(*given), code, *words)


def test_a_profile_of_another_model(cli: Cli, tiny: Path, profile: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    found = profile.read_text().split("sha256:")[1][:32]
    other.write_text(profile.read_text().replace(found, "0" * 32))
    expect_error(cli("run", tiny, "-p", other, "--prompt", "a"), 1, "another model", "search")


def test_a_prompt_that_is_not_text(cli: Cli, tiny: Path) -> None:
    expect_error(cli("run", tiny, stdin=b"\xff\xfe"), 1, "UTF-8")


def test_a_bug_is_one_line_and_verbose_shows_where(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("skipopt.decoding.text.stream_generate", broken)
    ended = cli("run", tiny, "--prompt", "a", "-q")
    assert ended.code == 1
    assert ended.err.startswith("error: this is a bug in skipopt: RuntimeError: two lines\nhint:")
    assert "Traceback" not in ended.err
    assert "Traceback" in cli("run", tiny, "--prompt", "a", "--verbose").err


def test_a_full_disk_behind_stdout_is_not_a_bug(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("skipopt.decoding.text.stream_generate", full)
    ended = cli("run", tiny, "--prompt", "a", "-q")
    expect_error(ended, 1, "cannot write the output: No space left on device")


def test_an_interrupt_is_not_an_error(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skipopt.decoding.text.stream_generate", interrupted)
    ended = cli("run", tiny, "--prompt", "a", "-q")
    assert (ended.code, ended.err) == (130, "")
