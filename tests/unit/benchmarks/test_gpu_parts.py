"""Parts of the GPU benchmark: their share of the time, what they record, and how they fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import tiny_gpt2, tiny_llama, tiny_target

from benchmarks import gpu
from benchmarks.gpu_parts import methods, shapes
from benchmarks.gpu_parts.configs import random_model
from benchmarks.gpu_parts.record import Record
from benchmarks.gpu_parts.session import TOY, Session, share
from benchmarks.gpu_parts.targets import in_one_line, load_eager, under_runtimes
from skipopt.errors import ModelError, OutputError, UsageError
from skipopt.masks import SkipMask
from skipopt.measurement.lossless import ComparedText, LosslessReport
from skipopt.measurement.runners import SkipoptRunner
from skipopt.measurement.timing import Timer, device_clock
from skipopt.methods import parse_method
from skipopt.profile import Profile

CPU = torch.device("cpu")


def test_a_part_gets_its_share_and_the_time_left_over() -> None:
    weights = {"train": 3.0, "search": 1.0, "shapes": 2.0}
    assert share(weights, "train", 60) == 30
    assert share(weights, "search", 30) == 10
    assert share(weights, "shapes", 45) == 45
    assert share(weights, "shapes", -5) == 0


def test_parts_are_run_in_order_and_unknown_ones_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gpu.parse(["--parts", "shapes,train"]).parts == ["train", "shapes"]
    with pytest.raises(SystemExit) as stopped:
        gpu.parse(["--parts", "train,sing"])
    assert stopped.value.code == 2
    assert "unknown part 'sing': use train,search,methods,shapes" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--seconds", "0"], ["--checkpoint", "/no/such/folder"]])
def test_impossible_arguments_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.parse(wrong)
    assert stopped.value.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_fails_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")]) == 2
    printed = capsys.readouterr().err
    assert (
        printed == "gpu.py: there is no CUDA device here\nhint: --toy runs tiny sizes on a CPU\n"
    )
    assert list(tmp_path.iterdir()) == []


def record(folder: Path, **environment: Any) -> Record:
    return Record(folder, {"device": "a device", **environment}, "python -m benchmarks.gpu")


def toy_session(folder: Path, checkpoint: Path | None = None) -> Session:
    until = time.monotonic() + 60
    return Session(CPU, TOY, folder, checkpoint, until, say=lambda line: None)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, part: Any, *needs: str) -> dict[str, Any]:
    """The JSON of a call whose part `shapes` is `part`."""
    monkeypatch.setattr(shapes, "shapes", part)
    place = gpu.PARTS["shapes"]
    monkeypatch.setitem(gpu.PARTS, "shapes", place._replace(needs=needs))
    done = gpu.run_part(toy_session(folder), record(folder), "shapes")
    found: dict[str, Any] = json.loads((folder / "gpu.json").read_text())["parts"]["shapes"]
    assert done == (found["status"] == "done")
    return found


FOUND = {"device": {}, "copy_bytes_per_second": 2e9, "context": 16, "models": []}


def test_results_are_saved_while_a_part_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []

    def part(session: Session) -> Iterator[dict[str, Any]]:
        yield FOUND
        seen.append(json.loads((tmp_path / "gpu.json").read_text())["parts"]["shapes"]["status"])
        seen.append((tmp_path / "gpu.md").read_text())

    assert run(monkeypatch, tmp_path, part)["found"] == FOUND
    assert seen[0] == "running"
    assert "read and written: 2 GB/s" in seen[1]


def test_a_failed_part_keeps_its_results_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def part(session: Session) -> Iterator[dict[str, Any]]:
        yield FOUND
        raise ModelError("too\nlarge", hint="a smaller one")

    found = run(monkeypatch, tmp_path, part)
    assert (found["status"], found["found"]) == ("failed", FOUND)
    assert found["reason"] == "ModelError: too large (a smaller one)"
    assert "failed: ModelError: too large (a smaller one)" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_lacks_a_package_is_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = run(monkeypatch, tmp_path, None, "torch", "no_such_package")
    assert (found["status"], found["reason"]) == ("not run", "not installed: no_such_package")


def test_with_a_checkpoint_nothing_is_trained(tmp_path: Path) -> None:
    session = toy_session(tmp_path, checkpoint=tmp_path)
    assert gpu.run_part(session, record(tmp_path), "train")
    train = json.loads((tmp_path / "gpu.json").read_text())["parts"]["train"]
    assert (train["status"], train["reason"]) == (
        "not run",
        f"the checkpoint {tmp_path} was given",
    )


def test_a_later_call_keeps_earlier_parts_with_their_environment(tmp_path: Path) -> None:
    record(tmp_path, torch="2.11").put("shapes", "done", 3.0, FOUND)
    record(tmp_path, torch="2.13").put("train", "not run", reason="not installed: tokenizers")
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert [p["environment"]["torch"] for p in document["parts"].values()] == ["2.13", "2.11"]
    page = (tmp_path / "gpu.md").read_text()
    assert page.count("- torch: 2.11") == page.count("- torch: 2.13") == 1


@pytest.mark.parametrize("text", ["not json", "[1]", '{"schema": "another"}'])
def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / "gpu.json").write_text(text)
    with pytest.raises(OutputError, match="not from this benchmark"):
        record(tmp_path)
    assert (tmp_path / "gpu.json").read_text() == text


def test_an_unavailable_runtime_is_reported_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.gpu_parts.targets.RUNTIMES", ("eager", "steam"))
    targets, absent = under_runtimes(tiny_target())
    assert list(targets) == ["eager"]
    assert "unknown runtime 'steam'" in absent["steam"]


class FakeCheck:
    """Replaces `check_texts`; a text that differs fails with a margin of 0.5."""

    def __init__(self) -> None:
        self.asked: list[ComparedText] = []

    def __call__(self, target: Any, texts: list[ComparedText]) -> LosslessReport:
        self.asked += texts
        exact = texts[0].emitted == texts[0].reference
        return LosslessReport(1, 0, 0) if exact else LosslessReport(0, 0, 1, 0.5)


SAME, OTHER, THIRD = (
    ComparedText((1,), (2, 3), (2, 3)),
    ComparedText((1,), (2, 3), (2, 4)),
    ComparedText((1,), (2,), (5,)),
)


def test_without_time_only_one_text_that_differs_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "check_texts", FakeCheck())
    known = methods.check_all(tiny_target(), [OTHER, THIRD, SAME], lambda: -1.0)
    assert list(known) == [OTHER, SAME]
    assert list(methods.check_all(tiny_target(), [OTHER, THIRD], lambda: 1.0)) == [OTHER, THIRD]


def test_without_time_nothing_is_compiled(tmp_path: Path) -> None:
    session = toy_session(tmp_path)
    session.until = time.monotonic() + 5
    target = tiny_target()
    clock = device_clock(CPU)
    plain = SkipoptRunner(target, parse_method("plain"))
    slow = methods.Entry(replace(plain, name="plain-compiled"), methods.COMPILED)
    quick = methods.Entry(plain, "eager")
    timer = Timer([quick.runner, slow.runner], [[1, 2]], [4], clock)
    for entry in (quick, slow):
        methods.warm_up(session, timer, entry, min_seconds=10)
    assert list(timer.errors) == ["plain-compiled"]
    methods.warm_up(session, timer, quick, min_seconds=1)
    assert list(timer.errors) == ["plain-compiled"]


def test_a_profile_of_another_model_is_replaced_by_a_mask_by_hand(tmp_path: Path) -> None:
    session = toy_session(tmp_path)
    target, other = tiny_target(tiny_llama(layers=8)), tiny_target(tiny_llama(layers=8, seed=1))
    Profile.by_hand(other, attention=[1]).save(session.profile_path)
    found, source = methods.choose_profile(session, target)
    assert found.skip_mask == SkipMask.of(8, attention=[2, 4], mlp=[3, 5])
    assert "another model" in source
    Profile.by_hand(target, attention=[1]).save(session.profile_path)
    assert methods.choose_profile(session, target)[1] == "search"


def test_a_model_that_does_not_fit_is_a_row_and_the_next_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def make(config: Any, device: torch.device) -> Any:
        if config["model_type"] == "llama":
            raise torch.OutOfMemoryError("no room")
        return random_model(config, device)

    monkeypatch.setattr(shapes, "random_model", make)
    monkeypatch.setattr(shapes, "_measure", lambda *given: {"measured": True})
    *_, found = shapes.shapes(toy_session(tmp_path))
    assert found["models"][0]["error"] == "OutOfMemoryError: no room"
    assert found["models"][1] == {"model": "Qwen3-8B", "runtime": "eager", "measured": True}


def test_a_model_that_cannot_be_measured_is_a_row_with_the_reason(tmp_path: Path) -> None:
    session = toy_session(tmp_path)
    found = shapes._measure_or_error(session, tiny_gpt2(context=8), "eager", 1e9, 0.0)
    assert list(found) == ["error"]


def test_parts_that_need_a_model_fail_without_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model in"):
        load_eager(toy_session(tmp_path))


def test_an_error_fits_in_a_table() -> None:
    assert in_one_line(UsageError("a\n  b", hint="c")) == "UsageError: a b (c)"
    assert len(in_one_line(RuntimeError("x" * 1000))) == 300


@pytest.mark.slow
def test_gpu_tests_are_collected_by_their_marker() -> None:
    root = Path(__file__).parents[3]
    command = ["-m", "pytest", "-m", "gpu", "--collect-only", "-q", "tests/gpu"]
    printed = subprocess.run(
        [sys.executable, *command], cwd=root, capture_output=True, text=True, check=True
    )
    counted = re.search(r"test_on_gpu\.py: (\d+)", printed.stdout)
    assert counted is not None
    assert int(counted[1]) >= 20
