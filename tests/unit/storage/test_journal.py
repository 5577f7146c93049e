"""Trials on disk: kept whatever happens to the process, and never another search's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skipopt.cost_model.prediction import Prediction
from skipopt.errors import SearchError
from skipopt.masks import SkipMask
from skipopt.storage.journal import Journal, Trial

LAYERS = 4
FACTS: dict[str, Any] = {
    "model": "sha256:0",
    "prompts": "sha256:1",
    "objective": "speed",
    "skip_ratio": None,
}


def trial(number: int) -> Trial:
    """The mask's bits are the number's."""
    mask = SkipMask.from_bits([number >> i & 1 for i in range(2 * LAYERS)])
    value = number / 8
    prediction = Prediction(value, (value, value / 3), number % 5 + 1, 0.5, 0.9, 0.8)
    return Trial(mask, value, prediction, pruned=number % 2 == 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.yaml.journal"


def written(path: Path, count: int) -> Path:
    journal = Journal(path, LAYERS, FACTS)
    for number in range(count):
        journal.append(trial(number))
    return path


def resumed(path: Path, **changed: Any) -> Journal:
    return Journal(path, LAYERS, {**FACTS, **changed}, resume=True)


def test_trials_come_back_in_order(path: Path) -> None:
    found = resumed(written(path, 5)).trials()
    assert found == [trial(number) for number in range(5)]


def test_trials_are_on_disk_when_append_returns(path: Path) -> None:
    journal = Journal(path, LAYERS, FACTS)
    for number in range(3):
        journal.append(trial(number))
        assert len(resumed(path).trials()) == number + 1


def test_resuming_nothing_begins_anew(path: Path) -> None:
    assert resumed(path).trials() == []


def test_existing_journal_is_refused_without_resume(path: Path) -> None:
    before = written(path, 2).read_bytes()
    with pytest.raises(SearchError, match="holds an earlier search"):
        Journal(path, LAYERS, FACTS)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "other"),
    [("model", "sha256:9"), ("prompts", "x"), ("objective", "matchness"), ("skip_ratio", 0.5)],
)
def test_journal_of_another_search_is_refused(path: Path, key: str, other: object) -> None:
    written(path, 2)
    with pytest.raises(SearchError, match=f"another search: its {key} is"):
        resumed(path, **{key: other})
    assert len(resumed(path).trials()) == 2


@pytest.mark.parametrize("lost", [1, 2, 20])
def test_torn_last_line_loses_that_trial_only(path: Path, lost: int) -> None:
    whole = written(path, 3).read_bytes()
    path.write_bytes(whole[:-lost])
    assert len(resumed(path).trials()) == 2


def test_search_goes_on_behind_a_torn_last_line(path: Path) -> None:
    """What is appended must not become part of the torn line."""
    path.write_bytes(written(path, 3).read_bytes()[:-9])
    journal = resumed(path)
    for number in (2, 3, 4):
        journal.append(trial(number))
    assert resumed(path).trials() == [trial(number) for number in range(5)]


def test_journal_torn_at_any_byte_can_be_resumed(path: Path) -> None:
    """However early the process was killed, facts and trials are what had been written."""
    whole = written(path, 1).read_bytes()
    for size in range(0, len(whole), 61):
        path.write_bytes(whole[:size])
        resumed(path).append(trial(3))
        assert resumed(path).trials()[-1] == trial(3)
        with pytest.raises(SearchError, match="another search"):
            resumed(path, model="sha256:9")


@pytest.mark.parametrize(
    "text",
    [
        "one line",
        "one line\n",
        "two\nlines\n",
        "schema: 1\nenabled: true\n",
        '{"prompt": "a"}\n{"prompt": "b"}\n',
        '{"prompt": "a"}\n',
        "[1, 2]\n",
        "17\n",
        "\n",
    ],
)
def test_file_that_is_no_journal_is_refused_and_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SearchError, match="not a search journal"):
        resumed(path)
    assert path.read_text() == text


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"\x00" * 40])
def test_binary_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SearchError, match="not a search journal"):
        resumed(path)
    assert path.read_bytes() == content
