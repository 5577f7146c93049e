"""Files and lines that `skipopt check` leaves for a CI server, with an invented measurement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.check_results import check_result
from support.command_line import Cli, command_line

FILES = {
    "--junit": "j.xml",
    "--markdown": "m.md",
    "--history": "h.jsonl",
    "--github-benchmark": "g.json",
    "--bencher": "b.json",
}


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Cli:
    for name in ("GITHUB_ACTIONS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_SHA"):
        monkeypatch.delenv(name, raising=False)
    return command_line(monkeypatch, tmp_path, capsys)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], dict[str, Any]]:
    """Makes the check return a result without a model; what it was called with is returned."""
    module = "skipopt.cli.check"
    nothing = SimpleNamespace(held_out=None)
    monkeypatch.setattr(f"{module}.load_with_profile", lambda *_: (nothing, nothing))
    monkeypatch.setattr(f"{module}.read_prompts", lambda *_: None)
    monkeypatch.setattr(f"{module}.prompts_for", lambda *_: None)
    monkeypatch.setattr(f"{module}.held_out", lambda *_: nothing)

    def answer(result: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}

        def check(*_: Any, **options: Any) -> Any:
            given.update(options)
            return result

        monkeypatch.setattr("skipopt.measurement.regression_gate.check", check)
        return given

    return answer


def options() -> list[str]:
    return [word for pair in FILES.items() for word in pair]


def test_every_file_is_written(cli: Cli, measured: Any) -> None:
    measured(check_result())
    for _ in range(2):
        assert cli("check", "-p", "p.yaml", *options()).code == 0
    assert "<testsuites" in Path("j.xml").read_text()
    assert "| verdict | **pass** |" in Path("m.md").read_text()
    assert json.loads(Path("g.json").read_text())[0]["value"] == 1.4
    assert json.loads(Path("b.json").read_text())
    assert len(Path("h.jsonl").read_text().splitlines()) == 2, "a history is appended to"


@pytest.mark.parametrize("option", FILES)
def test_a_file_that_cannot_be_written_is_told_before_the_measurement(
    cli: Cli, measured: Any, option: str
) -> None:
    given = measured(check_result())
    ended = cli("check", "-p", "p.yaml", option, "no/such/folder")
    assert (ended.code, given) == (1, {})
    assert "cannot write" in ended.err


@pytest.mark.parametrize("option", FILES)
def test_no_file_is_written_over_the_profile(cli: Cli, measured: Any, option: str) -> None:
    measured(check_result())
    Path("p.yaml").touch()
    assert cli("check", "-p", "p.yaml", option, "p.yaml").code == 2
    assert cli("check", "-p", "x.yaml", "--against", "p.yaml", option, "p.yaml").code == 2


@pytest.mark.parametrize(
    ("verdict", "code", "level"),
    [("pass", 0, "notice"), ("fail", 3, "error"), ("inconclusive", 4, "error")],
)
def test_a_step_of_github_gets_summary_outputs_and_an_annotation(
    cli: Cli, measured: Any, monkeypatch: pytest.MonkeyPatch, verdict: Any, code: int, level: str
) -> None:
    measured(check_result(verdict))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    monkeypatch.setenv("GITHUB_OUTPUT", "outputs")
    monkeypatch.setenv("GITHUB_SHA", "0123abcd")
    ended = cli("check", "-p", "p.yaml", "--history", "h.jsonl", "--json")
    assert ended.code == code
    assert f"::{level} title=" in ended.err
    assert json.loads(ended.out)["verdict"] == verdict, "stdout is one document"
    assert f"verdict={verdict}" in Path("outputs").read_text().splitlines()
    assert "| end to end |" in Path("summary.md").read_text()
    assert json.loads(Path("h.jsonl").read_text())["commit"] == "0123abcd"


def test_outside_github_nothing_is_annotated(
    cli: Cli, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(check_result())
    monkeypatch.setenv("GITHUB_OUTPUT", "outputs")
    assert "::" not in cli("check", "-p", "p.yaml").err
    assert not Path("outputs").exists()
