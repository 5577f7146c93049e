"""Searches whose time is kept and whose promises are measured: the page, and going on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import search_promise
from benchmarks.search_promise import Search
from benchmarks.search_report import report

ENVIRONMENT = {"commit": "abc", "threads": 2}


def interval(median: float) -> dict[str, float]:
    return {"median": median, "low": median - 0.1, "high": median + 0.1}


def row(seconds: float, budget: float | None = 20.0, **more: Any) -> dict[str, Any]:
    limit = more.pop("limit", budget)
    return asdict(Search("A", budget, 0, 2, "abc", seconds, limit, **more))


def enabled(promised: float) -> dict[str, Any]:
    expected = {"speedup": promised, "low": promised - 0.2, "high": promised + 0.2}
    return {"answer": "layer-skip, int8", "expected": expected, "profile": "yaml"}


def held_out(median: float, mean: float) -> dict[str, Any]:
    return {
        "prompts": 4,
        "tokens": 64,
        "repeats": 2,
        "speedup": interval(median),
        "mean": mean,
        "by_category": {"chat": interval(median + 0.5)},
        "lossless": "exact",
    }


def page(*rows: dict[str, Any]) -> str:
    return "\n".join(
        report({"commands": ["c"], "environment": ENVIRONMENT, "searches": list(rows)})
    )


def test_overruns_are_relative_to_the_budget_or_else_to_the_planned_limit() -> None:
    refused = row(3.0, 1.0, limit=None, reason="too short")
    text = page(row(22.0, answer="off"), row(150.0, None, limit=160.0, answer="off"), refused)
    assert "| A | 20 | 0 | 22.0 | +10.0% |" in text
    assert "| A | none | 0 | 150.0 | -6.2% |" in text
    assert "| A | 1 | 0 | 3.0 |  | 0 | too short |" in text
    assert "| A | 3 | 1 | 2 | +1.9% | +10.0% | 1 |" in text


def test_promises_are_compared_with_held_out_speedups() -> None:
    first = {**row(20.0, **enabled(1.6)), "held_out": held_out(1.6, 1.52)}
    second = {**row(20.0, **enabled(1.5)), "held_out": held_out(1.2, 1.2)}
    text = page(first, second)
    assert "| 1.60 (1.40–1.80) | 1.60 (1.50–1.70) | 1.00 | exact |" in text
    assert "| A | 2 | 0.90 | 0.80 | 0.88 | 0.80 | 1 of 2 |" in text
    assert "| A | chat | 1.90 | 1.70 |" in text


def test_a_search_that_says_off_promises_nothing() -> None:
    off = {**row(20.0, **enabled(0.9)), "answer": "off"}
    assert "| off |  |  |  |  |" in page(off)


class Killed(Exception):
    """Stands for the end of a run at any moment."""


def run(monkeypatch: pytest.MonkeyPatch, output: Path, children: int, *options: str) -> list[str]:
    """Run the benchmark with children that answer at once; the kinds of those that were started.

    Args:
        children: the run ends before one more than these.
    """
    started: list[str] = []

    def answer(given: Any, kind: str, model: str, budget: float, seed: int, *_: str) -> Any:
        if len(started) == children:
            raise Killed
        started.append(kind)
        if kind == "held-out":
            return {**held_out(1.5, 1.5), **search_promise.settings_of(given)}
        found = Search("A", budget, seed, given.threads, "abc", 1.0, budget, **enabled(1.5))
        return {"search": asdict(found), "environment": ENVIRONMENT}

    monkeypatch.setattr(search_promise, "run_child", answer)
    arguments = ["A=folder", "--budgets", "20,none", "--output", str(output), *options]
    monkeypatch.setattr(sys, "argv", ["search_promise", *arguments])
    try:
        search_promise.main()
    except Killed:
        started.append("killed")
    return started


def test_a_run_that_was_killed_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert run(monkeypatch, output, 1) == ["search", "killed"]
    assert len(json.loads((tmp_path / "out.json").read_text())["searches"]) == 1
    assert run(monkeypatch, output, 9) == ["held-out", "search", "held-out"]
    assert run(monkeypatch, output, 9) == []


def test_searches_are_added_and_measured_again_with_other_texts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert run(monkeypatch, output, 9, "--no-heldout") == ["search"] * 2
    assert run(monkeypatch, output, 9) == ["held-out"] * 2
    assert run(monkeypatch, output, 9, "--tokens", "8") == ["held-out"] * 2
    assert run(monkeypatch, output, 9, "--seeds", "1", "--no-heldout") == ["search"] * 2
    record = json.loads((tmp_path / "out.json").read_text())
    assert [each["seed"] for each in record["searches"]] == [0, 0, 1, 1]
    assert len(record["commands"]) == 4
