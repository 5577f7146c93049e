"""Cheaper drafts from the command line: the same text, their memory, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Cli, expect_error
from support.kernel_timings import prefer_quantized

from skipopt.kernels import quantized_linear

PROMPT = ("--prompt", "def f", "--max-new-tokens", 12)


@pytest.fixture
def quantised_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer_quantized(monkeypatch)


@pytest.fixture
def quantised_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_linear, "measure_seconds", lambda *_: 1.0)


def written(cli: Cli, tiny: Path, *options: object) -> tuple[dict[str, Any], str]:
    ended = cli("run", tiny, *PROMPT, *options, "--json")
    assert ended.code == 0
    return json.loads(ended.out), ended.err


@pytest.mark.parametrize("options", ["quant=int8", "window=2", "quant=int8:window=2"])
def test_the_text_is_plain_decoding_s(
    cli: Cli, tiny: Path, quantised_wins: None, options: str
) -> None:
    plain, _ = written(cli, tiny)
    found, notes = written(cli, tiny, "--method", f"layer-skip:{options}")
    assert found["tokens"] == plain["tokens"]
    assert found["drafted"] > 0
    assert (
        ("quantized copies" in notes)
        == (found["memory"]["quantized_weights"] > 0)
        == ("int8" in options)
    )


def test_a_lever_that_does_not_pay_is_left_with_a_note(
    cli: Cli, tiny: Path, quantised_loses: None
) -> None:
    plain, _ = written(cli, tiny)
    found, notes = written(cli, tiny, "--method", "layer-skip:quant=int8")
    assert (found["tokens"], found["drafted"]) == (plain["tokens"], 0)
    assert notes.count("note: drafts do without int8") == 1
    assert "Warning" not in notes


@pytest.fixture
def levered(tiny: Path, profile: Path, tmp_path: Path) -> Path:
    """The profile of other tests with levers, as a user writes them by hand."""
    path = tmp_path / "levered.yaml"
    line = "  gamma: 4\n"
    draft_config = "  levers: {int8: true, window: 8}\n"
    path.write_text(profile.read_text().replace(line, line + draft_config))
    return path


def test_the_summary_tells_what_drafts_were_made_with(
    cli: Cli, levered: Path, quantised_wins: None
) -> None:
    ended = cli("run", "-p", levered, *PROMPT, "--compare")
    assert ended.code == 0, ended.err
    plain, drafting, *_ = ended.err.splitlines()
    assert "drafts with" not in plain
    assert "layer-skip: 12 tokens" in drafting
    assert "drafts with int8+window=8" in drafting
    assert "the same tokens" in ended.err
    for other in (["--method", "cascade"], ["--method", "layer-skip:quant=none:window=none"]):
        ended = cli("run", "-p", levered, *PROMPT, *other)
        assert (ended.code, "drafts with" in ended.err) == (0, False), ended.err


def test_the_summary_leaves_out_a_lever_that_drafts_did_without(
    cli: Cli, levered: Path, quantised_loses: None
) -> None:
    ended = cli("run", "-p", levered, *PROMPT)
    assert ended.code == 0
    assert ended.err.count("note: drafts do without int8") == 1
    assert "drafts with window=8 ·" in ended.err


def test_adapting_tells_that_it_drafts_without_levers(
    cli: Cli, levered: Path, quantised_wins: None
) -> None:
    ended = cli("run", "-p", levered, *PROMPT, "--tune-online")
    assert ended.code == 0
    assert "ignores the profile's draft config (int8+window=8)" in ended.err
    assert "drafts with " not in ended.err


def test_show_names_levers(cli: Cli, levered: Path) -> None:
    assert "layer-skip, γ = 4, τ = 0, int8+window=8" in cli("show", levered).out


@pytest.mark.parametrize(
    ("draft_config", "word"),
    [("{window: 0}", "at least 1"), ("{int3: true}", "no such key"), ("int8", "{int8: true, ")],
)
@pytest.mark.parametrize("command", ["run", "check", "show"])
def test_a_profile_with_levers_that_there_are_not_is_one_line(
    cli: Cli, levered: Path, command: str, draft_config: str, word: str
) -> None:
    levered.write_text(levered.read_text().replace("{int8: true, window: 8}", draft_config))
    given = {"run": ("-p", levered, *PROMPT), "check": ("-p", levered), "show": (levered,)}
    expect_error(cli(command, *given[command]), 1, "drafting.levers", word)


def test_a_lever_that_there_is_not_is_a_usage_error(cli: Cli, tiny: Path) -> None:
    ended = cli("run", tiny, *PROMPT, "--method", "layer-skip:quant=int3", "-q")
    expect_error(ended, 2, "int3", "window=256")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("skip,int3", ("int3", "--search-space")),
        (",", ("space is empty", "--search-space")),
    ],
)
def test_search_refuses_levers_that_there_are_not(
    cli: Cli, tiny: Path, names: str, words: tuple[str, ...]
) -> None:
    expect_error(cli("search", tiny, "--search-space", names), 2, *words)


def test_search_by_matchness_knows_no_levers(cli: Cli, tiny: Path) -> None:
    options = ("--objective", "matchness", "--skip-ratio", 0.5, "--search-space", "skip,int8")
    expect_error(cli("search", tiny, *options), 2, "matchness", "speed")
