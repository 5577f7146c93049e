"""The end of the demo says what was found, how sure that is, and what to do next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skipopt.profile import Profile
from tools.demo_summary import read_check, summary

CHECK: dict[str, Any] = {
    "verdict": "inconclusive",
    "end_to_end": {"median": 1.234, "low": 1.1, "high": 1.4},
    "texts": ["a", "b"],
    "lossless": {"verdict": "exact"},
}


@pytest.fixture
def profile() -> Profile:
    return Profile.load("builtin")


def test_the_summary_tells_method_interval_and_verdict(profile: Profile) -> None:
    text = "\n".join(summary(profile, CHECK, "p.yaml"))
    assert "layer-skip" in text
    assert "1.23× (1.10–1.40) on 2 other prompts" in text
    assert "exact" in text
    assert "skipopt check -p p.yaml --timeout" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_decided_check_is_not_repeated(profile: Profile) -> None:
    text = "\n".join(summary(profile, {**CHECK, "verdict": "pass"}, "p.yaml"))
    assert "skipopt check" not in text


def test_a_profile_that_is_off_says_why(profile: Profile) -> None:
    off = profile.model_copy(update={"enabled": False, "reason": "drafts are slow"})
    text = "\n".join(summary(off, None, "p.yaml"))
    assert "drafts are slow" in text
    assert "not measured" in text


def test_a_check_that_printed_nothing_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_check(tmp_path / "empty") is None
    assert read_check(tmp_path / "missing") is None
    (tmp_path / "check").write_text(json.dumps(CHECK))
    assert read_check(tmp_path / "check") == CHECK
