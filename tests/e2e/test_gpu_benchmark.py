"""`benchmarks/gpu.py` from end to end with toy sizes, on any device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu

pytestmark = pytest.mark.slow  # half a minute


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    shared = ["--toy", "--work", str(folder / "work"), "--output", str(folder / "out")]
    # Two calls, because only the methods need time, to be compiled.
    assert gpu.main([*shared, "--parts", "train,search,shapes", "--seconds", "60"]) == 0
    assert gpu.main([*shared, "--parts", "methods", "--seconds", "20"]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def parts(output: Path) -> dict[str, Any]:
    document = json.loads((output / "gpu.json").read_text())
    assert document["schema"] == "skipopt-gpu-benchmark"
    found: dict[str, Any] = document["parts"]
    return found


def interval(value: dict[str, float]) -> None:
    assert 0 < value["low"] <= value["median"] <= value["high"]


@pytest.mark.slow
def test_every_part_is_done_and_names_its_device(parts: dict[str, Any]) -> None:
    assert list(parts) == ["train", "search", "methods", "shapes"]
    for part in parts.values():
        assert (part["status"], part["reason"]) == ("done", None)
        assert part["seconds"] > 0
        assert "--toy" in part["command"]
        environment = part["environment"]
        assert environment["toy"] is True
        for key in ("skipopt", "python", "torch", "transformers", "device", "threads"):
            assert environment[key]


def test_the_trained_model_and_its_profile_are_kept(output: Path, parts: dict[str, Any]) -> None:
    work = output.parent / "work"
    assert (work / "model" / "model.safetensors").exists()
    assert (work / "profile.yaml").exists()
    found = parts["train"]["found"]
    assert found["steps"] > 0
    assert found["files"] > found["held_out_files"] > 0
    assert 0 < found["held_out_loss"] < 10
    assert parts["search"]["found"]["profile"]["schema"] == 1


def test_every_method_is_compared_with_plain_decoding(parts: dict[str, Any]) -> None:
    found = parts["methods"]["found"]
    rows = {row["name"]: row for row in found["methods"]}
    assert next(iter(rows)) == "plain-eager"
    assert {
        "plain-captured", "plain-compiled", "hf-generate-eager", "hf-generate-static",
        "layer-skip", "cascade", "prompt-lookup", "rsd-c", "rsd-s", "swift",
    } < set(rows)  # fmt: skip
    assert rows[found["baseline"]]["speedup"]["median"] == 1
    timed = [row for row in rows.values() if row["error"] is None]
    assert len(timed) >= 8
    for row in timed:
        interval(row["speedup"])
        assert row["tokens_per_second"] > 0
        assert row["samples"]
        assert row["lossless"]["verdict"] in ("exact", "within-margin")
    for row in rows.values():
        assert (row["error"] is None) == (row["tokens_per_second"] is not None)
        if row["error"]:
            assert row["name"] == "plain-captured" or "no time left" in row["error"]


def test_costs_at_large_models_shapes(parts: dict[str, Any]) -> None:
    found = parts["shapes"]["found"]
    assert found["copy_bytes_per_second"] > 0
    named = [(row["model"], row["runtime"]) for row in found["models"]]
    models, runtimes = ("Llama-3.1-8B", "Qwen3-8B"), ("eager", "captured")
    assert named == [(model, runtime) for model in models for runtime in runtimes]
    for row in found["models"]:
        if "error" in row:
            assert row["runtime"] == "captured"
            continue
        read = row["read_bytes"] * row["tokens_per_second"]
        assert row["bytes_per_second"] == pytest.approx(read)
        assert [each["tokens"] for each in row["verify_costs"]] == list(range(1, 17))
        assert len(row["draft_costs"]) == 10
        for each in row["draft_costs"]:
            interval(each["draft_cost"])
            assert 0 < each["kept_share"] <= 1
        for each in row["verify_costs"]:
            interval(each)
        assert row["host_share"] is None or 0 <= row["host_share"] <= 1


def test_the_page_shows_all_of_it(output: Path, parts: dict[str, Any]) -> None:
    page = (output / "gpu.md").read_text()
    for name in parts:
        assert f"## {name}\n" in page
    for row in parts["methods"]["found"]["methods"]:
        assert f"| `{row['name']}` |" in page
    assert "| tokens verified n | v(n) |" in page
    assert "| 16 | " in page
    widths = {len(line.split("|")) for line in page.splitlines() if line.startswith("| `")}
    assert widths == {9}


def test_a_later_call_keeps_earlier_results(output: Path, parts: dict[str, Any]) -> None:
    """With a checkpoint nothing is trained, and the page keeps the earlier training."""
    arguments = ["--toy", "--seconds", "1", "--parts", "train", "--output", str(output)]
    model = str(output.parent / "work" / "model")
    assert gpu.main([*arguments, "--checkpoint", model, "--work", str(output.parent)]) == 0
    assert json.loads((output / "gpu.json").read_text())["parts"] == parts
