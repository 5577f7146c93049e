"""Quantized drafts and attention windows from the command line: the text stays the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Cli, expect_error
from support.kernel_timings import prefer_quantized

from skipopt.draft_config import DraftConfig
from skipopt.kernels import quantized_linear
from skipopt.profile import Profile

# The runtime `auto` would decode so short a text plainly.
PROMPT = ("--prompt", "def f", "--max-new-tokens", 12, "--runtime", "native")


@pytest.fixture
def quantized_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer_quantized(monkeypatch)


@pytest.fixture
def quantized_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_linear, "measure_seconds", lambda *_: 1.0)


@pytest.fixture
def profile_with_config(profile: Path, tmp_path: Path) -> Path:
    """The profile of other tests with int8 weights and an attention window of 8."""
    path = tmp_path / "with-config.yaml"
    text = profile.read_text()
    for key, value in (("quant", "int8"), ("window", "8")):
        assert f"{key}: null" in text
        text = text.replace(f"{key}: null", f"{key}: {value}")
    path.write_text(text)
    return path


def decoded(cli: Cli, tiny: Path, *options: object) -> tuple[dict[str, Any], str]:
    """The document of `run --json`, and stderr."""
    ended = cli("run", tiny, *PROMPT, *options, "--json")
    assert ended.code == 0
    return json.loads(ended.out), ended.err


@pytest.mark.parametrize(
    "options", ["quant=int8", "window=2", "quant=int8:window=2", "vocab=40", "vocab=40:quant=int8"]
)
def test_the_text_is_that_of_plain_decoding(
    cli: Cli, tiny: Path, quantized_wins: None, options: str
) -> None:
    plain, _ = decoded(cli, tiny)
    found, notes = decoded(cli, tiny, "--method", f"layer-skip:{options}")
    assert found["tokens"] == plain["tokens"]
    assert found["drafted"] > 0
    is_quantized = found["memory"]["quantized_weights"] > 0
    assert ("quantized copies" in notes) == is_quantized == ("int8" in options)


def test_quantization_that_is_slower_is_left_out_with_a_note(
    cli: Cli, tiny: Path, quantized_loses: None
) -> None:
    plain, _ = decoded(cli, tiny)
    found, notes = decoded(cli, tiny, "--method", "layer-skip:quant=int8")
    assert (found["tokens"], found["drafted"]) == (plain["tokens"], 0)
    assert notes.count("note: drafts do without int8") == 1
    assert "Warning" not in notes


def test_the_summary_names_the_draft_config(
    cli: Cli, profile_with_config: Path, quantized_wins: None
) -> None:
    ended = cli("run", "-p", profile_with_config, *PROMPT, "--compare")
    assert ended.code == 0, ended.err
    plain, drafting, *_ = ended.err.splitlines()
    assert "drafts with" not in plain
    assert "layer-skip: 12 tokens" in drafting
    assert "drafts with int8+window=8" in drafting
    assert "the same tokens" in ended.err
    for other, told in {
        "cascade": True,
        "jacobi": False,
        "rsd-c:quant=none:window=none": False,
    }.items():
        ended = cli("run", "-p", profile_with_config, *PROMPT, "--method", other)
        assert (ended.code, "drafts with" in ended.err) == (0, told), ended.err


def test_the_summary_names_only_what_drafts_used(
    cli: Cli, profile_with_config: Path, quantized_loses: None
) -> None:
    ended = cli("run", "-p", profile_with_config, *PROMPT)
    assert ended.code == 0
    assert ended.err.count("note: drafts do without int8") == 1
    assert "drafts with window=8 ·" in ended.err


def test_online_tuning_drafts_with_the_draft_config(
    cli: Cli, profile_with_config: Path, quantized_wins: None, tmp_path: Path
) -> None:
    saved = tmp_path / "tuned.yaml"
    tuning = ("--tune-online", "--save-profile", saved)
    ended = cli("run", "-p", profile_with_config, *PROMPT, *tuning)
    assert ended.code == 0
    assert "drafts with int8+window=8" in ended.err
    assert Profile.load(saved).draft_config == DraftConfig.parse("int8+window=8")


def test_show_names_the_draft_config(cli: Cli, profile_with_config: Path) -> None:
    assert "layer-skip, γ = 4, τ = 0, int8+window=8" in cli("show", profile_with_config).out


@pytest.mark.parametrize(
    ("line", "key"),
    [("window: 0", "drafting.window"), ("window: int8", "drafting.window")],
)
@pytest.mark.parametrize("command", ["run", "check", "show"])
def test_an_invalid_draft_config_in_a_profile(
    cli: Cli, profile_with_config: Path, command: str, line: str, key: str
) -> None:
    path = profile_with_config
    path.write_text(path.read_text().replace("window: 8", line))
    given = {"run": ("-p", path, *PROMPT), "check": ("-p", path), "show": (path,)}
    expect_error(cli(command, *given[command]), 1, key)


def test_an_unknown_quantization_is_a_usage_error(cli: Cli, tiny: Path) -> None:
    ended = cli("run", tiny, *PROMPT, "--method", "layer-skip:quant=int3", "-q")
    expect_error(ended, 2, "int3", "int8")


@pytest.mark.parametrize("names", ["skip,int3", ","])
def test_an_invalid_search_space_is_a_usage_error(cli: Cli, tiny: Path, names: str) -> None:
    expect_error(cli("search", tiny, "--search-space", names), 2, "--search-space")


def test_matchness_searches_masks_only(cli: Cli, tiny: Path) -> None:
    options = ("--objective", "matchness", "--skip-ratio", 0.5, "--search-space", "skip,int8")
    expect_error(cli("search", tiny, *options), 2, "matchness", "speed")
