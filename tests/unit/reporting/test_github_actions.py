"""What a step of GitHub Actions gets of a check."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.check_results import check_result

from skipopt.reporting.github_actions import (
    annotation,
    check_annotation,
    is_github,
    step_outputs,
    write_step_files,
)

ROOT = Path(__file__).parents[3]


def test_lines_and_signs_of_an_annotation_are_escaped() -> None:
    line = annotation("error", "a: b, c", "100%\r\nof it: all, yes")
    assert line == "::error title=a%3A b%2C c::100%25%0D%0Aof it: all, yes"


@pytest.mark.parametrize(
    ("verdict", "choice", "level"),
    [
        ("pass", "fail", "notice"),
        ("fail", "pass", "error"),
        ("inconclusive", "fail", "error"),
        ("inconclusive", "warn", "warning"),
        ("inconclusive", "pass", "notice"),
    ],
)
def test_a_verdict_has_the_level_of_its_exit_status(verdict: str, choice: str, level: str) -> None:
    line = check_annotation(check_result(verdict), "p.yaml", choice)  # type: ignore[arg-type]
    assert line.startswith(f"::{level} ")
    assert "\n" not in line
    assert "100%25 seen,%0Ano more" in line


def test_outputs_are_lines_and_empty_where_nothing_was_measured() -> None:
    found = step_outputs(check_result())
    assert found["speedup"] == "1.4000"
    assert found["reason"].endswith("100% seen, no more")
    unmeasured = step_outputs(
        check_result("inconclusive", end_to_end=None, speedup=None, lossless=None)
    )
    assert (unmeasured["speedup"], unmeasured["lossless"]) == ("", "")


def test_files_of_a_step_are_appended_to(tmp_path: Path) -> None:
    summary, outputs = tmp_path / "summary", tmp_path / "outputs"
    summary.write_text("of an earlier step\n")
    variables = {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(outputs)}
    write_step_files(variables, check_result("fail"), "p.yaml", "| check | |\n")
    assert summary.read_text().startswith("of an earlier step\n### skipopt check failed: p.yaml")
    assert "verdict=fail\n" in outputs.read_text()
    write_step_files({}, check_result(), "p.yaml", "")  # no files: nothing to do


def test_only_github_is_github() -> None:
    assert is_github({"GITHUB_ACTIONS": "true"})
    assert not is_github({"CI": "true"})


def test_the_action_passes_on_every_output() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    assert set(action["outputs"]) == set(step_outputs(check_result()))
    for name, each in action["outputs"].items():
        assert each["value"] == f"${{{{ steps.check.outputs.{name} }}}}"
