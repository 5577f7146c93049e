"""Training runs: files written, resumed runs, the untouched model, and `skipopt train`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import (
    byte_tokenizer,
    tiny_llama,
    tiny_target,
)
from support.training import (
    Kind,
    heads_run,
)

from skipopt.cli.app import main
from skipopt.drafting.checkpoints.checkpoint import CheckpointError
from skipopt.models.target import Target
from skipopt.training.heads import HeadLearner
from skipopt.training.mask_tokens import (
    SlotLearner,
)
from skipopt.training.self_text import SelfGenerator


def interrupt_at(monkeypatch: pytest.MonkeyPatch, where: type, method: str, call: int) -> None:
    """Raise KeyboardInterrupt in the n-th call of a method."""
    original, calls = getattr(where, method), iter(range(1, 1 << 30))

    def wrapped(self: Any, *args: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(where, method, wrapped)


def test_a_training_run_writes_and_reports_its_result(
    kind: Kind, target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    facts = kind.run(target, path)
    assert list(tmp_path.iterdir()) == [path]
    assert facts["seconds"] == 30
    assert facts["steps"] == 15
    assert facts["tokens"] == facts["texts"] * 12  # nothing loops or ends
    drafted = len(facts["acceptance"])
    assert drafted == len(facts["chain_acceptance"]) == 2 + (kind.learner is SlotLearner)
    assert facts["tokens_per_forward"] == pytest.approx(
        1 + sum(facts["chain_acceptance"]), abs=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize(("method", "call"), [("loss", 1), ("loss", 8), ("write", 5)])
def test_an_interrupted_training_resumes_to_the_same_result(
    kind: Kind,
    target: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    call: int,
) -> None:
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    expected = kind.run(target, whole)
    interrupt_at(monkeypatch, SelfGenerator if method == "write" else kind.learner, method, call)
    with pytest.raises(KeyboardInterrupt):
        kind.run(target, broken)
    assert not broken.exists()
    assert broken.with_suffix(".checkpoint").exists()
    assert kind.run(target, broken) == expected
    first, second = load_file(whole), load_file(broken)
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    assert not broken.with_suffix(".checkpoint").exists()


def test_a_killed_training_resumes_from_its_last_checkpoint(
    kind: Kind, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"

    class Killed(BaseException):
        pass

    def kill(self: Any, step: int, generator: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kind.learner, "loss", kill)
        with pytest.raises(Killed):
            kind.run(target, path)
    assert path.with_suffix(".checkpoint").exists()
    assert kind.run(target, path)["seconds"] == 30


def test_the_model_is_left_as_it_was(kind: Kind, tmp_path: Path) -> None:
    target = tiny_target()
    target.model.lm_head.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in target.model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in target.model.parameters()]
    kind.run(target, tmp_path / "a.safetensors")
    after = target.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [parameter.requires_grad for parameter in target.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in target.model.parameters())
    assert not any("forward" in vars(module) for module in target.model.modules())


def test_training_changes_what_is_trained(kind: Kind, target: Target, tmp_path: Path) -> None:
    short, long = tmp_path / "short.safetensors", tmp_path / "long.safetensors"
    kind.run(target, short, minutes=0.3)
    kind.run(target, long)
    first, second = load_file(short), load_file(long)
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 3}, "another training"),
        ({"seed": 1}, "another training"),
        ("other model", "another training"),
        ("torn", "cannot be read"),
        ("text", "cannot be read"),
        ("other things", "cannot be read"),
    ],
)
def test_checkpoints_of_other_trainings_are_refused(
    kind: Kind,
    target: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
    words: str,
) -> None:
    path, checkpoint = tmp_path / "a.safetensors", tmp_path / "a.checkpoint"
    interrupt_at(monkeypatch, kind.learner, "loss", 2)
    with pytest.raises(KeyboardInterrupt):
        kind.run(target, path)
    other = tiny_target(tiny_llama(seed=1)) if change == "other model" else target
    if change == "torn":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    elif change == "text":
        checkpoint.write_text("not a checkpoint")
    elif change == "other things":
        torch.save({"weights": torch.zeros(3)}, checkpoint)
    kept = checkpoint.read_bytes()
    with pytest.raises(CheckpointError, match=words) as caught:
        kind.run(other, path, **(change if isinstance(change, dict) else {}))
    assert "delete" in str(caught.value.hint)
    assert checkpoint.read_bytes() == kept
    assert not path.exists()


def test_a_slow_model_still_gets_training_time(target: Target, tmp_path: Path) -> None:
    facts = heads_run(target, tmp_path / "a.safetensors", minutes=2 / 60, writing_share=0.5)
    assert facts["steps"] == 1  # generating the first text takes two seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with a tokenizer."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = byte_tokenizer()
    tiny_llama(vocabulary=len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n\n".join(f"def {c}(a, b):" for c in "abcdefghij"))
    return tmp_path


def profile_of(folder: Path, path: Path) -> Path:
    import skipopt

    made = skipopt.Profile.by_hand(skipopt.load(folder), attention=[1], mlp=[2])
    made.save(path)
    return path


@pytest.mark.slow
def test_the_command_trains_and_reports(
    folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--prompts", "prompts.txt", "--time-limit", "0.02"]
    profile = str(profile_of(folder, here / "p.yaml"))
    runs = [
        (["heads", "--arch", "medusa", "--num-heads", "2"], "heads.safetensors", 2),
        (["mask-tokens", "--num-tokens", "2", "-p", profile], "m.safetensors", 3),
    ]
    capsys.readouterr()
    for what, file, positions in runs:
        line = ["train", what[0], str(folder), *what[1:], *common, "-o", file]
        assert main([*line, "--json", "-q"]) == 0
        printed = capsys.readouterr()
        document = json.loads(printed.out)
        assert printed.err == ""
        assert (document["kind"], document["file"]) == (what[0], file)
        assert len(document["acceptance"]) == positions
        assert (here / file).exists()
        assert main(line) == 0
        printed = capsys.readouterr()
        assert f"wrote {file}" in printed.out
        assert "tokens per target forward" in printed.out
        assert "held-out acceptance" in printed.err
    assert not list(here.glob("*.checkpoint"))


def test_an_interrupted_command_says_how_to_resume(
    folder: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt_at(monkeypatch, HeadLearner, "loss", 1)
    line = ["train", "heads", str(folder), "--prompts", "prompts.txt", "--time-limit", "0.02"]
    assert main([*line, "--no-progress"]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "the same command continues from heads.checkpoint" in printed.err
    assert sorted(path.name for path in here.iterdir()) == ["heads.checkpoint", "prompts.txt"]
    assert main(line) == 0
    assert "resuming" in capsys.readouterr().err
    assert (here / "heads.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["hands"], 2, ["hands", "mask-tokens", "heads"]),
        (["heads", "--arch", "cube"], 2, ["cube", "medusa"]),
        (["heads", "--num-heads", "0"], 2, ["num-heads", "0"]),
        (["heads", "--num-heads", "many"], 2, ["--num-heads"]),
        (["heads", "--time-limit", "0"], 2, ["time-limit"]),
        (["heads", "--time-limit", "inf"], 2, ["time-limit"]),
        (["heads", "-o", "heads.pt"], 2, ["heads.pt", ".safetensors"]),
        (["heads", "-o", "none/heads.safetensors"], 1, ["cannot write", "mkdir"]),
        (["heads", "--profile", "p.yaml"], 2, ["--profile", "mask-tokens"]),
        (["mask-tokens", "--arch", "ffn"], 2, ["--arch", "heads"]),
        (["mask-tokens", "--profile", "none.yaml"], 1, ["none.yaml"]),
        (["mask-tokens", "--num-heads", "3"], 2, ["--num-heads", "heads"]),
        (["heads", "no-such-model"], 1, ["no-such-model"]),
        (["heads", "--prompts", "none.txt"], 1, ["none.txt"]),
        (["heads", "--dtype", "int3"], 2, ["int3"]),
        (["heads", "{folder}", "--prompts", "three.txt"], 1, ["two prompts"]),
        (["heads", "{folder}", "--prompts", "prompts.txt", "-o", "taken.safetensors"], 1,
         ["taken.checkpoint"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_requests_end_in_one_line_and_a_hint(
    folder: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    (here / "three.txt").write_text("a\n\nb")
    (here / "taken.checkpoint").write_text("something else")
    before = sorted(here.iterdir())
    given = [argument.format(folder=folder) for argument in arguments]
    assert main(["train", *given, "-q"]) == code
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == ""
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert all(word in printed.err for word in words), printed.err
    assert "bug" not in printed.err
    assert sorted(here.iterdir()) == before


def test_a_config_file_may_hold_options_of_other_kinds(
    folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "all.yaml").write_text("arch: medusa\nnum-tokens: 2\ntime-limit: 0.02\nquiet: true\n")
    line = [
        "train",
        "mask-tokens",
        str(folder),
        "--prompts",
        "prompts.txt",
        "--config",
        "all.yaml",
    ]
    assert main(line) == 0
    assert "wrote mask-tokens.safetensors" in capsys.readouterr().out
