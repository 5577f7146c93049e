"""`--runtime` and `--device-map` of every command that loads a model, and their notes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.command_line import Cli, expect_error

from skipopt.runtime.setup import RUNTIMES

LOADING = ("search", "run", "bench", "check", "train")
SHORT = ("--prompt", "def f", "--max-new-tokens", 8)


@pytest.mark.parametrize("command", LOADING)
def test_every_command_that_loads_a_model_has_them(cli: Cli, command: str) -> None:
    shown = cli(command, "--help").out
    assert "--runtime" in shown
    assert "--device-map" in shown


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "inductor"])
def test_every_runtime_gives_the_same_text_and_its_name(
    cli: Cli, tiny: Path, runtime: str
) -> None:
    eager = json.loads(cli("run", tiny, *SHORT, "--json", "-q", "--runtime", "eager").out)
    ended = cli("run", tiny, *SHORT, "--json", "--runtime", runtime)
    document = json.loads(ended.out)
    assert document["tokens"] == eager["tokens"]
    assert eager["runtime"] == "eager"
    assert document["runtime"] in set(RUNTIMES) - {"auto"}
    assert f"runtime {document['runtime']}" in ended.err


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)
def test_compiled_steps_give_the_same_text_and_the_time_of_compilation(
    cli: Cli, tiny: Path
) -> None:
    eager = cli("run", tiny, *SHORT, "--json", "--runtime", "eager")
    ended = cli("run", tiny, *SHORT, "--json", "--runtime", "inductor")
    found = json.loads(ended.out)
    assert found["tokens"] == json.loads(eager.out)["tokens"]
    assert found["runtime"] == "inductor"
    count, seconds = found["graph_capture"]["steps"], found["graph_capture"]["seconds"]
    assert count >= 1
    steps = "steps" if count > 1 else "step"
    assert f"compiled {count} {steps} in {seconds:.1f} s" in ended.err
    assert "compiled" not in eager.err


def test_the_runtime_comes_from_a_variable_or_a_file(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("runtime: no-such-file-runtime")
    expect_error(cli("run", tiny, *SHORT, "--config", config), 2, "no-such-file-runtime")
    monkeypatch.setenv("SKIPOPT_RUNTIME", "no-such-variable-runtime")
    ended = cli("run", tiny, *SHORT, "--config", config)
    expect_error(ended, 2, "no-such-variable-runtime", *RUNTIMES)
    assert cli("run", tiny, *SHORT, "--runtime", "eager").code == 0


def test_a_profile_of_another_runtime_is_used_with_a_note(
    cli: Cli, tiny: Path, profile: Path, tmp_path: Path
) -> None:
    import skipopt
    from skipopt.measurement.provenance import environment_of

    target = skipopt.load(tiny, runtime="eager")
    facts = skipopt.Profile.load(profile).as_dict() | {"environment": environment_of(target)}
    here, there = tmp_path / "here.yaml", tmp_path / "there.yaml"
    save(facts, here)
    save(facts | {"environment": facts["environment"] | {"runtime": "other"}}, there)
    common = (*SHORT, "--runtime", "eager")
    assert "other conditions" not in cli("run", "-p", here, *common).err
    ended = cli("run", "-p", there, *common)
    assert ended.code == 0
    lines = [line for line in ended.err.splitlines() if "other conditions" in line]
    assert len(lines) == 1
    assert "runtime was other, is eager;" in lines[0]
    assert "other conditions" not in cli("run", "-p", profile, *common).err, "made by hand"


def save(facts: dict[str, object], path: Path) -> None:
    import yaml

    path.write_text(yaml.safe_dump(facts))


def test_a_model_on_disk_runs_eagerly_with_a_note(cli: Cli, tiny: Path, profile: Path) -> None:
    pytest.importorskip("accelerate")
    common = ("run", "-p", profile, *SHORT)
    ended = cli(*common, "--device-map", "disk", "--runtime", "prepacked")
    assert ended.out == cli(*common).out
    assert "runtime eager: weights are offloaded" in ended.err
    assert "meta device" not in ended.err, "messages of accelerate are not shown"
    assert "runtime eager:" not in cli(*common, "--device-map", "disk", "--runtime", "eager").err


def test_an_unknown_device_map(cli: Cli, tiny: Path) -> None:
    pytest.importorskip("accelerate")
    expect_error(cli("run", tiny, *SHORT, "--device-map", "toaster"), 2, "toaster", "balanced")
