"""Commands report the memory of weights, their copies and the kept cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import Cli, Ended
from support.kernel_timings import prefer_packed, prefer_quantized
from support.native import needs_native

PROMPT = ("--prompt", "def f", "--max-new-tokens", 12)
NATIVE = pytest.param("native", marks=needs_native)
KEYS = [
    "weights",
    "prepacked_weights",
    "fused_weights",
    "quantized_weights",
    "draft_vocabulary",
    "cache",
    "scratch",
]


@pytest.fixture(autouse=True)
def faster_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch cannot pack weights")
    prefer_packed(monkeypatch)
    prefer_quantized(monkeypatch)


def lines(ended: Ended) -> list[str]:
    assert ended.code == 0, ended.err
    return [line for line in ended.err.splitlines() if line.startswith("memory: ")]


def facts(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def test_a_line_below_the_summary(cli: Cli, tiny: Path) -> None:
    ended = cli("run", tiny, *PROMPT, "--runtime", "prepacked", "--method", "plain")
    assert ended.err.splitlines()[-2].startswith("plain: 12 tokens")
    assert lines(ended) == ["memory: weights 0.2 MB + prepacked copies 0.2 MB"]


@pytest.mark.parametrize("more", [(), ("--compare",)])
def test_eager_decoding_prints_no_line(cli: Cli, profile: Path, more: tuple[str, ...]) -> None:
    ended = cli("run", "-p", profile, *PROMPT, "--runtime", "eager", *more)
    assert lines(ended) == []


@pytest.mark.parametrize("runtime", ["eager", "prepacked", "captured", NATIVE])
def test_quantized_drafts_have_copies_on_every_runtime(cli: Cli, tiny: Path, runtime: str) -> None:
    given = (*PROMPT, "--runtime", runtime, "--method", "layer-skip:quant=int8")
    [line] = lines(cli("run", tiny, *given))
    assert "quantized copies" in line
    memory = facts(cli("run", tiny, *given, "--json", "-q"))["memory"]
    assert list(memory) == KEYS
    there = {key for key in KEYS if memory[key]}
    copies = {
        "eager": set(),
        "prepacked": {"prepacked_weights"},
        "captured": {"prepacked_weights", "fused_weights", "cache"},
        "native": {"cache", "scratch"},
    }
    assert there == {"weights", "quantized_weights"} | copies[runtime]


def test_a_comparison_has_one_line(cli: Cli, profile: Path) -> None:
    ended = cli("run", "-p", profile, *PROMPT, "--runtime", "captured", "--compare")
    [line] = lines(ended)
    assert all(word in line for word in ("prepacked copies", "fused copies", "KV cache"))
    assert "quantized" not in line
    assert ended.err.splitlines().index(line) == 2, "below both summaries"
    assert not lines(cli("run", "-p", profile, *PROMPT, "--runtime", "captured", "-q"))


@pytest.mark.slow
def test_bench_and_check_report_it_in_their_environment(
    cli: Cli, profile: Path, prompts: Path
) -> None:
    short = ("-p", profile, "--prompts", prompts, "--max-new-tokens", 8, "--runtime", "prepacked")
    once = ("--repeats", 1, "--methods", "plain,layer-skip:quant=int8", "-o", "bench.json")
    [line] = lines(cli("bench", *short, *once))
    bench = json.loads(Path("bench.json").read_text())["environment"]["memory"]
    assert list(bench) == KEYS
    assert bench["prepacked_weights"] > 0
    assert f"quantized copies {bench['quantized_weights'] / 1e6:.1f} MB" in line
    check = facts(cli("check", *short, "--timeout", 20, "--min-speedup", 0.001, "--json", "-q"))
    assert check["environment"]["memory"] == bench | {"quantized_weights": 0}


@pytest.mark.slow
def test_a_profile_holds_it_and_show_prints_it(cli: Cli, tiny: Path, prompts: Path) -> None:
    short = ("--prompts", prompts, "--trials", 2, "--runtime", "prepacked", "-q", "--no-progress")
    aim = ("--objective", "matchness", "--skip-ratio", 0.5)  # nothing is timed
    ended = cli("search", tiny, *short, *aim, "-o", "found.yaml")
    assert ended.code == 0, ended.err
    shown = facts(cli("show", "found.yaml", "--json"))["environment"]["memory"]
    assert list(shown) == KEYS
    assert shown["prepacked_weights"] > 0
    printed = cli("show", "found.yaml").out.splitlines()
    assert "memory      weights 0.2 MB + prepacked copies 0.2 MB" in printed
