"""`skipopt run --memory`: drafts copied from the texts of earlier runs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command_line import SUBPROCESS, Cli, expect_error

from skipopt.draft_memory.memory import DraftMemory

COMMON = ("--prompt", "def f", "--max-new-tokens", 40, "--method", "suffix")


def texts(path: Path) -> list[list[int]]:
    return [list(text) for text in DraftMemory.load(path).texts()]


def run_json(cli: Cli, *arguments: object) -> dict[str, Any]:
    ended = cli("run", *arguments, *COMMON, "--json", "-q")
    assert ended.code == 0, ended.err
    document: dict[str, Any] = json.loads(ended.out)
    return document


def test_a_second_run_copies_from_the_first(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "memory"
    first = run_json(cli, tiny, "--memory", file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    second = run_json(cli, tiny, "--memory", file, "--show-rounds")
    assert second["tokens"] == first["tokens"]
    assert second["target_forwards"] < first["target_forwards"]
    assert "remembered" in {word for each in second["rounds"] for word in each["sources"]}
    [text] = texts(file)
    assert text[-len(first["tokens"]) :] == first["tokens"]
    assert "remembers 1 texts" in cli("run", tiny, *COMMON, "--memory", file).err


def test_bench_times_methods_with_the_texts_and_adds_none(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "memory"
    run_json(cli, tiny, "--memory", file)
    before = file.read_bytes()
    settings = ("--methods", "suffix", "--num-prompts", 2, "--repeats", 1, "--max-new-tokens", 16)
    ended = cli("bench", tiny, *settings, "--memory", file, "--json", "-q")
    assert ended.code == 0, ended.err
    names = [each["name"] for each in json.loads(ended.out)["methods"]]
    assert names == ["plain", "suffix", "suffix, with memory"]
    assert file.read_bytes() == before
    missing = tmp_path / "missing"
    expect_error(cli("bench", tiny, *settings, "--memory", missing), 1, str(missing))


def test_compare_adds_the_text_once(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "memory"
    document = run_json(cli, tiny, "--memory", file, "--compare")
    assert document["compare"]["differs_at"] is None
    [text] = texts(file)
    assert text[-len(document["tokens"]) :] == document["tokens"]


def test_other_files_are_refused_and_stay_as_they_are(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    other, damaged, foreign = (tmp_path / name for name in ("other", "damaged", "foreign"))
    memory = DraftMemory(tokenizer="sha256:0")
    memory.add([1, 2, 3])
    memory.save(other)
    damaged.write_bytes(other.read_bytes()[:-1])
    foreign.write_text("some text\n")
    for path in (other, damaged, foreign):
        before = path.read_bytes()
        expect_error(cli("run", tiny, *COMMON, "--memory", path), 1, str(path))
        assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_told_before_the_model_is_loaded(
    cli: Cli, tmp_path: Path
) -> None:
    missing = tmp_path / "no" / "memory"
    expect_error(cli("run", "no/such/model", *COMMON, "--memory", missing), 1, "mkdir")
    expect_error(cli("run", "no/such/model", *COMMON, "--memory", tmp_path), 1, str(tmp_path))


def test_the_profile_is_not_overwritten(cli: Cli, profile: Path) -> None:
    before = profile.read_bytes()
    ended = cli("run", "-p", profile, *COMMON, "--memory", profile)
    expect_error(ended, 2, "--memory", "--profile")
    assert profile.read_bytes() == before


def test_texts_that_other_processes_added_meanwhile_are_kept(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.cli import run

    file = tmp_path / "memory"
    run_json(cli, tiny, "--memory", file)
    make_request = run.make_request

    def other_process_adds(*arguments: Any) -> Any:
        memory = DraftMemory.load(file)
        memory.add([7, 8, 9, 10])
        memory.save(file)
        return make_request(*arguments)

    monkeypatch.setattr(run, "make_request", other_process_adds)
    cli("run", tiny, "--memory", file, "--prompt", "class", "--max-new-tokens", 9)
    assert len(texts(file)) == 3
    assert [7, 8, 9, 10] in texts(file)


def test_an_interrupted_text_is_added(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.cli import run

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "memory"
    monkeypatch.setattr(run, "print_text", interrupt)
    assert cli("run", tiny, *COMMON, "--memory", file).code == 130
    assert len(texts(file)) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a shell's pipe")
def test_a_closed_pipe_leaves_a_whole_file(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "memory"
    command = f"{sys.executable} -m skipopt run {tiny} --prompt a --memory {file} | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=SUBPROCESS)
    assert "error" not in done.stderr
    assert len(texts(file)) == 1
