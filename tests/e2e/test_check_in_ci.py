"""`check` in CI: the action's own steps, its files, and another profile as the reference."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from support.command_line import SUBPROCESS, Cli, expect_error

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
EXPRESSION = re.compile(r"\$\{\{ *([\w.-]+) *\}\}")


class Job:
    """Runs a step of action.yml as GitHub's runner does, in a folder with a `skipopt` command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary, self.outputs = folder / "summary.md", folder / "outputs"
        commands = folder / "commands"
        commands.mkdir()
        self.add_command("skipopt", f'exec "{sys.executable}" -m skipopt "$@"')

    def add_command(self, name: str, line: str) -> None:
        script = self.folder / "commands" / name
        script.write_text(f"#!/usr/bin/env bash\n{line}\n")
        script.chmod(0o755)

    def run(self, step_name: str, **given: str) -> subprocess.CompletedProcess[str]:
        [step] = [each for each in ACTION["runs"]["steps"] if each["name"] == step_name]
        inputs = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()}
        values = {f"inputs.{name.replace('_', '-')}": value for name, value in given.items()}
        assert values.keys() <= {f"inputs.{name}" for name in inputs}
        values = {**{f"inputs.{name}": value for name, value in inputs.items()}, **values}
        values["github.action_path"] = str(ROOT)
        variables = {key: _filled(text, values) for key, text in step["env"].items()}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env={
                **SUBPROCESS,
                **variables,
                "PATH": f"{self.folder / 'commands'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "GITHUB_ACTIONS": "true",
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "GITHUB_OUTPUT": str(self.outputs),
                "GITHUB_SHA": "0123abcd",
            },
            capture_output=True,
            text=True,
            timeout=240,
        )

    @property
    def written(self) -> dict[str, str]:
        """The outputs of the step."""
        lines = self.outputs.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return EXPRESSION.sub(lambda found: values[found.group(1)], text)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = tmp_path / "with blanks"
    folder.mkdir()
    return Job(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("floor", "code", "level"), [("0.001", 0, "notice"), ("1000", 3, "error")]
)
def test_the_action_tells_its_verdict(
    job: Job, profile: Path, prompts: Path, floor: str, code: int, level: str
) -> None:
    ended = job.run(
        "Check",
        profile=str(profile),
        prompts=str(prompts),
        min_speedup=floor,
        timeout="60",
        junit="check report.xml",
        history="history.jsonl",
        github_benchmark="github.json",
        bencher="bencher.json",
        arguments="--max-new-tokens 12 --num-prompts 4",
    )
    assert ended.returncode == code, ended.stderr
    assert f"::{level} title=skipopt check" in ended.stderr
    assert job.written["verdict"] == ("pass" if code == 0 else "fail")
    assert float(job.written["speedup-low"]) <= float(job.written["speedup"])
    assert job.written["lossless"] == "exact"
    assert "| end to end |" in job.summary.read_text()
    assert "<testsuites" in (job.folder / "check report.xml").read_text()
    [line] = (job.folder / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["commit"] == "0123abcd"
    assert json.loads((job.folder / "github.json").read_text())[0]["unit"] == "×"
    assert json.loads((job.folder / "bencher.json").read_text())


def test_a_check_that_cannot_run_is_an_error_of_the_step(job: Job) -> None:
    ended = job.run("Check", profile="no such profile.yaml")
    assert ended.returncode == 1
    assert "::error title=skipopt check::" in ended.stdout
    assert "no such profile.yaml" in ended.stderr


def test_every_input_reaches_the_command(job: Job) -> None:
    """Each as one word, whatever characters it has."""
    job.add_command("skipopt", 'printf "%s\\n" "$@"; exit 0')
    inputs = {
        name.replace("-", "_"): f"of {name}"
        for name in ACTION["inputs"]
        if name not in ("install", "python-version", "arguments")
    }
    words = job.run("Check", **inputs, arguments="--repeats 6").stdout.splitlines()
    assert words[:2] == ["check", "of model"]
    options = {f"--{name}=of {name}" for name in map(_dashed, inputs) if name != "model"}
    assert set(words[2:]) == options | {"--repeats", "6", "--no-progress"}


def test_inputs_are_options_of_check() -> None:
    from typer.main import get_command

    from skipopt.cli.app import app

    known = {
        name
        for parameter in get_command(app).commands["check"].params  # type: ignore[attr-defined]
        for name in parameter.opts
    }
    others = {"model", "install", "python-version", "arguments"}
    assert {f"--{name}" for name in ACTION["inputs"].keys() - others} <= known


@pytest.mark.parametrize(
    ("given", "installed"), [("", str(ROOT)), ("skipopt==0.1", "skipopt==0.1")]
)
def test_the_action_installs_its_own_version(job: Job, given: str, installed: str) -> None:
    job.add_command("python", 'printf "%s\\n" "$@"')
    words = job.run("Install skipopt", install=given).stdout.splitlines()
    assert words[:3] == ["-m", "pip", "install"]
    assert words[-1] == installed


def _dashed(name: str) -> str:
    return name.replace("_", "-")


# --- another profile as the reference


@pytest.fixture
def other(tiny: Path, tmp_path: Path) -> Path:
    """A profile of the same method that skips nothing, so that it is slower."""
    import skipopt

    path = tmp_path / "other.yaml"
    skipopt.Profile.by_hand(skipopt.load(tiny), attention=[0], gamma=1).save(path)
    return path


@pytest.mark.parametrize(("floor", "code"), [(0.001, 0), (1000, 3)])
def test_a_profile_is_compared_with_another_one(
    cli: Cli, profile: Path, other: Path, prompts: Path, floor: float, code: int
) -> None:
    options = ("--prompts", prompts, "--max-new-tokens", 12, "--min-speedup", floor, "--json")
    ended = cli("check", "-p", profile, "--against", other, *options, "--timeout", 60, "-q")
    assert ended.code == code, ended.err
    document = json.loads(ended.out)
    assert document["against"]["settings"]["gamma"] == 1
    assert document["floor"] == pytest.approx(0.95 * floor)
    assert {each["method"] for each in document["samples"]} == {"reference", "layer-skip"}
    Path("document.json").write_text(ended.out)
    refused = cli("check", "-p", profile, "--baseline", "document.json", "--timeout", 5)
    assert (refused.code, "against" in refused.err) == (1, True)


def test_a_profile_that_is_off_can_be_compared_with_another_one(
    cli: Cli, profile: Path, prompts: Path
) -> None:
    text = profile.read_text().replace("enabled: true", "enabled: false")
    Path("off.yaml").write_text(text.replace("reason: null", "reason: too slow"))
    options = ("--prompts", prompts, "--max-new-tokens", 12, "--min-speedup", 0.001, "--json")
    ended = cli("check", "-p", "off.yaml", "--against", profile, *options, "--timeout", 60, "-q")
    document = json.loads(ended.out)
    assert {each["method"] for each in document["samples"]} == {"reference", "plain"}
    assert document["verdict"] == "pass"


def test_one_reference_at_a_time(cli: Cli, profile: Path) -> None:
    ended = cli("check", "-p", profile, "--against", profile, "--baseline", profile)
    expect_error(ended, 2, "--against", "--baseline")


def test_a_reference_of_another_model_is_refused(cli: Cli, profile: Path, tmp_path: Path) -> None:
    text = re.sub(r"fingerprint: .*", "fingerprint: sha256:00ff", profile.read_text())
    (tmp_path / "foreign.yaml").write_text(text)
    ended = cli("check", "-p", profile, "--against", "foreign.yaml")
    expect_error(ended, 1, "another model")
