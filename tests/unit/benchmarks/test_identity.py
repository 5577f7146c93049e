"""Texts of every method on tiny models: what is compared, and going on after an interrupt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.architectures import SKIPPABLE
from support.rope import RECIPES

from benchmarks import identity
from benchmarks.identity import METHODS, Row, Text, Texts, main, prompts_of
from benchmarks.identity_models import Model, models
from skipopt.methods import METHODS as ALL
from skipopt.methods import parse_method
from skipopt.rounds import Statistics

SOME = "layer-skip:gamma=4,prompt-lookup,rsd-s"


def run(
    monkeypatch: pytest.MonkeyPatch, prefix: Path, *options: str
) -> tuple[dict[str, Any], int]:
    """The record, and the exit status."""
    arguments = ["--methods", SOME, "--tokens", "240", "--output", str(prefix), *options]
    monkeypatch.setattr(sys, "argv", ["identity", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return json.loads(prefix.with_suffix(".json").read_text()), int(ended.value.code or 0)


def test_every_method_and_forty_models_are_compared() -> None:
    assert {parse_method(method.format(ffn="x", whole="x")).name for method in METHODS} == {
        *ALL
    } - {"plain"}
    names = [model.name for model in models()]
    assert len(names) == len(set(names)) >= 40
    assert {*SKIPPABLE, *RECIPES} < set(names)
    with pytest.raises(SystemExit, match="no architecture 'abacus'; there are: llama"):
        models(["abacus"])


def test_prompts_are_the_same_every_time_and_some_repeat_themselves() -> None:
    found = prompts_of(6, 64, "llama")
    assert found == prompts_of(6, 64, "llama") != prompts_of(6, 64, "qwen3")
    assert any(len(set(each)) < len(each) / 2 for each in found)


@pytest.mark.slow
def test_texts_are_compared_with_and_without_penalties(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record, status = run(monkeypatch, tmp_path / "same", "--architectures", "llama,gpt2")
    assert status == 0
    rows = [Row.of(each) for each in record["rows"]]
    compared = [(row.architecture, row.penalties) for row in rows]
    assert compared == [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True)]
    for row in rows:
        assert (row.tokens, row.differences) == (120, 0)
        layer_skip = row.methods["layer-skip:gamma=4"]
        assert layer_skip.accepted in range(1, layer_skip.drafted)
    text = (tmp_path / "same.md").read_text()
    assert "- without penalties: 240 tokens on 2 models, 0 differences" in text
    assert "| gpt2 | yes | 3 | 120 |" in text


@pytest.mark.slow
def test_differences_are_counted_and_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decode = Texts.decode

    def wrong(self: Texts, prompt: Text, method: str, total: Statistics) -> Text:
        found = decode(self, prompt, method, total)
        return (*found[:5], found[5] + 1, *found[6:]) if method == "rsd-s" else found

    monkeypatch.setattr(Texts, "decode", wrong)
    record, status = run(monkeypatch, tmp_path / "wrong", "--architectures", "llama")
    assert status == 1
    rows = [Row.of(each) for each in record["rows"]]
    assert all(0 < row.differences == row.methods["rsd-s"].differences for row in rows)
    assert (
        "- llama, with penalties, rsd-s: another token at 5 after ["
        in (tmp_path / "wrong.md").read_text()
    )


@pytest.mark.slow
def test_an_interrupted_run_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = Model.target

    def interrupted(self: Model, runtime: str) -> Any:
        if self.name == "gpt2":
            raise KeyboardInterrupt
        return target(self, runtime)

    with monkeypatch.context() as patched:
        patched.setattr(Model, "target", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(patched, tmp_path / "part", "--architectures", "llama,gpt2")
    compare, done = identity.compare, []

    def noted(model: Model, *more: Any) -> Any:
        done.append(model.name)
        return compare(model, *more)

    monkeypatch.setattr(identity, "compare", noted)
    record, _ = run(monkeypatch, tmp_path / "part", "--architectures", "llama,gpt2")
    assert done == ["gpt2"]
    assert [row["architecture"] for row in record["rows"]] == ["llama"] * 2 + ["gpt2"] * 2
