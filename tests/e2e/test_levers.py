"""Cheaper drafts from the command line: the same text, their memory, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli, expect_error
from torch import Tensor

from skipopt import quantising

PROMPT = ("--prompt", "def f", "--max-new-tokens", 12)


@pytest.fixture
def quantised_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    def race(operations: list[Callable[[Tensor], Tensor]], given: Tensor) -> float:
        return 0.5 if "_int" in operations[0].__qualname__ else 1.0

    monkeypatch.setattr(quantising, "_race", race)


@pytest.fixture
def quantised_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising, "_race", lambda *_: 1.0)


def written(cli: Cli, tiny: Path, *options: object) -> tuple[dict[str, Any], str]:
    ended = cli("run", tiny, *PROMPT, *options, "--json")
    assert ended.code == 0
    return json.loads(ended.out), ended.err


@pytest.mark.parametrize("levers", ["int8", "window=2", "int8+window=2"])
def test_the_text_is_plain_decoding_s(
    cli: Cli, tiny: Path, quantised_wins: None, levers: str
) -> None:
    plain, _ = written(cli, tiny)
    found, notes = written(cli, tiny, "--method", f"layer-skip:levers={levers}")
    assert found["tokens"] == plain["tokens"]
    assert found["drafted"] > 0
    assert ("MB of coarser weights" in notes) == ("int8" in levers)


def test_a_lever_that_does_not_pay_is_left_with_a_note(
    cli: Cli, tiny: Path, quantised_loses: None
) -> None:
    plain, _ = written(cli, tiny)
    found, notes = written(cli, tiny, "--method", "layer-skip:levers=int8")
    assert (found["tokens"], found["drafted"]) == (plain["tokens"], 0)
    assert notes.count("note: drafts do without int8") == 1
    assert "Warning" not in notes


def test_a_lever_that_there_is_not_is_a_usage_error(cli: Cli, tiny: Path) -> None:
    ended = cli("run", tiny, *PROMPT, "--method", "layer-skip:levers=int3", "-q")
    expect_error(ended, 2, "int3", "window=256")


@pytest.mark.parametrize(
    ("names", "words"),
    [("skip,int3", ("int3", "--levers")), (",", ("no lever", "--levers"))],
)
def test_search_refuses_levers_that_there_are_not(
    cli: Cli, tiny: Path, names: str, words: tuple[str, ...]
) -> None:
    expect_error(cli("search", tiny, "--levers", names), 2, *words)


def test_search_by_matchness_knows_no_levers(cli: Cli, tiny: Path) -> None:
    options = ("--objective", "matchness", "--skip-ratio", 0.5, "--levers", "skip,int8")
    expect_error(cli("search", tiny, *options), 2, "matchness", "speed")
