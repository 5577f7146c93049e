"""`skipopt run` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command_line import RUN_KEYS, SUBPROCESS, Cli, expect_error, spawn


def test_text_goes_to_stdout_and_figures_to_stderr(cli: Cli, tiny: Path) -> None:
    ended = cli("run", tiny, "--prompt", "def f", "--max-new-tokens", 12)
    assert ended.code == 0
    assert "no profile: decoding plainly" in ended.err
    assert "plain: 12 tokens" in ended.err
    assert "stopped by length" in ended.err
    document = json.loads(
        cli("run", tiny, "--prompt", "def f", "--max-new-tokens", 12, "--json").out
    )
    assert ended.out.removesuffix("\n") == document["text"].removesuffix("\n")


def test_json_has_the_keys_of_the_contract(cli: Cli, tiny: Path, profile: Path) -> None:
    at_once = ("--runtime", "native")  # `auto` would decode so short a text plainly
    options = ("--prompt", "def f", "--max-new-tokens", 20, "--json", "-q")
    ended = cli("run", "-p", profile, *options, *at_once)
    document = json.loads(ended.out)
    assert tuple(document) == RUN_KEYS
    assert ended.err == ""
    assert document["method"] == "layer-skip"
    assert document["profile"] == str(profile)
    assert len(document["tokens"]) == document["new_tokens"] == 20
    assert document["prompt_tokens"] == 5
    assert 0 < document["accepted"] < document["drafted"]
    rate = document["new_tokens"] / document["seconds"]
    assert document["tokens_per_second"] == pytest.approx(rate)


@pytest.mark.parametrize("prompt", ["def f", "class A:\n", "é"])
def test_a_profile_changes_no_text(cli: Cli, tiny: Path, profile: Path, prompt: str) -> None:
    common = ("--prompt", prompt, "--max-new-tokens", 60, "-q")
    assert cli("run", "-p", profile, *common) == cli("run", tiny, *common)


def test_the_prompt_comes_from_an_option_a_file_or_stdin(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("def f\n")
    common = ("run", tiny, "--max-new-tokens", 8, "--json", "-q")
    documents = [
        json.loads(ended.out)
        for ended in (
            cli(*common, "--prompt", "def f"),
            cli(*common, "--prompt-file", file),
            cli(*common, stdin=b"def f\n"),
        )
    ]
    assert [d["tokens"] for d in documents] == [documents[0]["tokens"]] * 3
    assert [d["prompt_tokens"] for d in documents] == [5, 5, 5]


def test_penalties_change_the_text_and_profiles_do_not(
    cli: Cli, tiny: Path, profile: Path
) -> None:
    common = ("--prompt", "def f", "--max-new-tokens", 40, "-q")
    penalties = ("--repetition-penalty", 1.5, "--no-repeat-ngram-size", 2)
    penalized = cli("run", tiny, *common, *penalties)
    assert penalized != cli("run", tiny, *common)
    assert cli("run", "-p", profile, *common, *penalties) == penalized
    drawn = ("--temperature", 0.8, "--min-p", 0.05, "--seed", 3)
    texts = [
        cli("run", *model, *common, *penalties, *drawn)
        for model in ((tiny,), ("-p", profile, "--method", "layer-skip:verify=match"))
    ]
    assert texts[0] == texts[1]


def test_the_text_ends_before_a_stop_text(cli: Cli, tiny: Path, profile: Path) -> None:
    common = ("run", "-p", profile, "--prompt", "def f", "--max-new-tokens", 60, "--json", "-q")
    whole = json.loads(cli(*common).out)
    stop = next(c for c in whole["text"][3:] if c.isascii() and c.isprintable())
    cut = json.loads(cli(*common, "--stop", "never said", "--stop", stop).out)
    assert cut["text"] == whole["text"].split(stop)[0]
    assert cut["stop_reason"] == "stop"
    assert cut["new_tokens"] == len(cut["tokens"]) < whole["new_tokens"]
    assert cut["tokens"] == whole["tokens"][: cut["new_tokens"]]


def test_sampling_repeats_with_its_seed(cli: Cli, tiny: Path) -> None:
    def text(seed: int) -> Any:
        sampled = ("--temperature", 1.5, "--top-p", 0.9, "--top-k", 50, "--seed", seed)
        ended = cli("run", tiny, "--prompt", "a", "--max-new-tokens", 20, "--json", *sampled)
        return json.loads(ended.out)["tokens"]

    assert text(1) == text(1) != text(2)


def test_compare_shows_the_speedup_and_that_tokens_are_the_same(cli: Cli, profile: Path) -> None:
    common = ("run", "-p", profile, "--prompt", "def f", "--max-new-tokens", 20, "--compare")
    ended = cli(*common)
    assert ended.code == 0
    assert "decoding speedup" in ended.err
    assert "end to end" in ended.err
    assert "as a first text" in ended.err
    assert "the same tokens" in ended.err
    found = json.loads(cli(*common, "--json").out)["compare"]
    assert found["differs_at"] is None
    low, high = sorted(found["pair_ratios"])
    assert low <= found["speedup"] <= high
    assert found["lossless"]["verdict"] == "exact"
    for key in ("end_to_end", "first_text"):
        assert found[key]["low"] <= found[key]["median"] <= found[key]["high"]


def test_compare_ends_both_texts_at_a_stop_string(cli: Cli, profile: Path) -> None:
    common = ("run", "-p", profile, "--prompt", "def f", "--max-new-tokens", 60, "--json", "-q")
    whole = json.loads(cli(*common).out)
    stop = next(c for c in whole["text"][3:] if c.isascii() and c.isprintable())
    cut = json.loads(cli(*common, "--stop", stop).out)
    compared = json.loads(cli(*common, "--stop", stop, "--compare").out)
    assert (compared["text"], compared["tokens"]) == (cut["text"], cut["tokens"])
    assert compared["stop_reason"] == "stop"
    assert compared["compare"]["differs_at"] is None


def test_compare_without_a_method_is_a_usage_error(cli: Cli, tiny: Path) -> None:
    expect_error(cli("run", tiny, "--prompt", "a", "--compare", "-q"), 2, "--compare", "--method")


def test_rounds_are_shown_with_symbols(cli: Cli, profile: Path) -> None:
    common = ("run", "-p", profile, "--prompt", "def f", "--max-new-tokens", 20, "--show-rounds")
    ended = cli(*common)
    assert all(symbol in ended.out for symbol in "✓✗→")
    assert "\x1b" not in ended.out
    document = json.loads(cli(*common, "--json").out)
    assert [t for r in document["rounds"] for t in r["emitted"]] == document["tokens"]


def test_without_progress_the_text_is_the_same(cli: Cli, tiny: Path) -> None:
    common = ("run", tiny, "--prompt", "def f", "--max-new-tokens", 12, "-q")
    assert cli(*common, "--no-progress") == cli(*common)


def test_a_disabled_profile_decodes_plainly_with_a_note(
    cli: Cli, profile: Path, tmp_path: Path
) -> None:
    off = tmp_path / "off.yaml"
    text = profile.read_text()
    text = text.replace("enabled: true", "enabled: false").replace(
        "reason: null", "reason: drafts cost too much"
    )
    off.write_text(text)
    ended = cli("run", "-p", off, "--prompt", "a", "--max-new-tokens", 4)
    assert "drafts cost too much" in ended.err
    assert "plain: 4 tokens" in ended.err
    compared = cli("run", "-p", off, "--prompt", "a", "--max-new-tokens", 4, "--compare")
    assert (compared.code, compared.out) == (0, ended.out)
    assert "nothing to compare with" in compared.err


def test_skip_layers_files_can_be_used(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "skip_layers.json"
    file.write_text('{"mine": {"attention": [1], "mlp": [2]}}')
    ended = cli("run", tiny, "-p", f"{file}#mine", "--prompt", "a", "--max-new-tokens", 8)
    assert ended.code == 0
    assert "layer-skip: 8 tokens" in ended.err
    expect_error(cli("run", tiny, "-p", f"{file}#other", "--prompt", "a"), 1, "other", "mine")


@pytest.mark.slow
def test_libraries_print_nothing(tiny: Path) -> None:
    done = spawn("run", tiny, "--prompt", "a", "--max-new-tokens", 2, "--threads", 1, "-q")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_closed_pipe_is_not_an_error(tiny: Path) -> None:
    command = f"{sys.executable} -m skipopt run {tiny} --prompt a --show-rounds | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=SUBPROCESS)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
