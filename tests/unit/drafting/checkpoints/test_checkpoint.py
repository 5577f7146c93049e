"""Checkpoint files are saved whole, and refused when damaged or made for another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import BODY, SETTINGS, random_heads, random_tokens
from support.tiny import tiny_llama, tiny_target

from skipopt.drafting.checkpoints import checkpoint
from skipopt.drafting.checkpoints.checkpoint import CheckpointError
from skipopt.drafting.checkpoints.heads import (
    HeadSettings,
    load_heads,
    make_heads,
    save_heads,
)
from skipopt.drafting.checkpoints.mask_tokens import (
    MaskTokenSettings,
    load_mask_tokens,
    save_mask_tokens,
)
from skipopt.errors import OutputError
from skipopt.masks import SkipMask
from skipopt.models.target import Target

FACTS = {"tokens": 12, "seconds": 3.5, "acceptance": [0.5, 0.25, 0.125]}


@pytest.mark.parametrize("settings", SETTINGS)
def test_heads_come_back_as_they_were(
    settings: HeadSettings, target: Target, hidden: torch.Tensor, tmp_path: Path
) -> None:
    heads = random_heads(settings, target)
    save_heads(tmp_path / "a.safetensors", heads, target, FACTS)
    found = load_heads(tmp_path / "a.safetensors", target)
    assert found.settings == settings
    assert torch.equal(found.logits(hidden, target), heads.logits(hidden, target))
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert checkpoint.load(tmp_path / "a.safetensors", "heads", target).facts == FACTS


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("body", [BODY, SkipMask.empty(3)])
def test_mask_tokens_come_back_as_they_were(
    rank: int, body: SkipMask, target: Target, tmp_path: Path
) -> None:
    tokens = random_tokens(target, rank, body)
    save_mask_tokens(tmp_path / "a.safetensors", tokens, target, FACTS)
    found = load_mask_tokens(tmp_path / "a.safetensors", target)
    assert found.body == body
    assert found.settings == tokens.settings == MaskTokenSettings(3, rank, str(body))
    expected = dict(tokens.named_parameters())
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, expected.pop(name))
        assert not parameter.requires_grad
    assert not expected


def test_a_file_holds_16_bits_and_is_read_in_the_models_precision(tmp_path: Path) -> None:
    target = tiny_target(tiny_llama().to(torch.bfloat16))
    save_heads(tmp_path / "a.safetensors", make_heads(SETTINGS[0], target), target, FACTS)
    stored = load_file(tmp_path / "a.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    found = load_heads(tmp_path / "a.safetensors", target)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}


def rewrite(path: Path, tensors: dict[str, Any] | None = None, **metadata: Any) -> None:
    """Put other metadata or tensors into a file; None takes one out."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    kept = {**load_file(path), **(tensors or {})}
    save_file(
        {name: tensor for name, tensor in kept.items() if tensor is not None},
        path,
        {key: value for key, value in {**old, **metadata}.items() if value is not None},
    )


def settings_of(**changes: Any) -> str:
    known: dict[str, Any] = {"count": 3, "units": 8, "shape": "ffn", **changes}
    return json.dumps({key: value for key, value in known.items() if value is not None})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "2"}, ["format 2", "upgrade"]),
        ({"format": "pt"}, ["not made by skipopt"]),
        ({"format": "9" * 5000}, ["format 999999999,", "upgrade"]),
        ({"format": None}, ["not made by skipopt"]),
        ({"fingerprint": None}, ["not made by skipopt"]),
        ({"kind": "mask-tokens"}, ["holds mask-tokens", "expected heads", "train heads"]),
        ({"fingerprint": "sha256:0"}, ["another model", "sha256:0", "skipopt train heads"]),
        ({"facts": "{"}, ["facts"]),
        ({"facts": "[1]"}, ["facts"]),
        ({"facts": f'{{"a": {"9" * 5000}}}'}, ["facts"]),
        ({"settings": "{"}, ["setting"]),
        ({"settings": "3"}, ["setting"]),
        ({"settings": settings_of(count=None)}, ["count"]),
        ({"settings": settings_of(count=0)}, ["count"]),
        ({"settings": settings_of(count="3")}, ["count"]),
        ({"settings": settings_of(count=1 << 40)}, ["count"]),
        ({"settings": settings_of(units=-1)}, ["units"]),
        ({"settings": settings_of(color=1)}, ["color"]),
        ({"settings": settings_of(shape="cube")}, ["cube"]),
        ({"settings": settings_of(shape="medusa")}, ["medusa"]),
        ({"settings": settings_of(count=4)}, ["first.bias", "[24]", "[32]"]),
        ({"tensors": {"second.bias": None}}, ["second.bias", "missing"]),
        ({"tensors": {"third": torch.zeros(1)}}, ["third", "unknown"]),
        ({"tensors": {"first.bias": torch.zeros(7)}}, ["first.bias", "[7]"]),
        ({"tensors": {"first.bias": torch.zeros(24, dtype=torch.int64)}}, ["first.bias", "int64"]),
    ],
)
def test_damaged_files_are_refused(
    change: dict[str, Any], words: list[str], target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_heads(path, random_heads(SETTINGS[0], target), target, FACTS)
    rewrite(path, **change)
    with pytest.raises(CheckpointError) as caught:
        load_heads(path, target)
    text = f"{caught.value} {caught.value.hint}"
    assert all(word in text for word in ["a.safetensors", *words]), text
    assert caught.value.hint
    assert "\n" not in text


@pytest.mark.parametrize(
    ("body", "words"), [("attn x", ["attn x"]), ("attn 3", ["layer 3", "range"]), (3, ["body"])]
)
def test_mask_tokens_with_an_invalid_body_are_refused(
    body: Any, words: list[str], target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_mask_tokens(path, random_tokens(target), target, FACTS)
    rewrite(path, settings=json.dumps({"count": 3, "rank": 4, "body": body}))
    with pytest.raises(CheckpointError) as caught:
        load_mask_tokens(path, target)
    assert all(word in str(caught.value) for word in ["a.safetensors", "body", *words])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no file"]),
        (b"", ["not a safetensors file"]),
        (b"shape: ffn\n" * 9, ["not a safetensors file"]),
        ("half", ["not a safetensors file"]),
        ("folder", ["folder"]),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(
    content: Any, words: list[str], target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    if content == "half":
        save_heads(path, random_heads(SETTINGS[0], target), target, FACTS)
        path.write_bytes(path.read_bytes()[:-9])
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_heads(path, target)
    assert all(word in str(caught.value) for word in ["a.safetensors", *words])
    assert caught.value.hint


def test_heads_of_another_model_are_refused(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_heads(path, random_heads(SETTINGS[0], target), target, FACTS)
    with pytest.raises(CheckpointError, match="another model"):
        load_heads(path, tiny_target(tiny_llama(seed=1)))
    with pytest.raises(CheckpointError, match="expected mask-tokens"):
        load_mask_tokens(path, target)


def test_a_full_disk_leaves_the_old_file(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("before")

    def fill_up(tensors: Any, draft: Path, metadata: Any) -> None:
        draft.write_text("half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_up)
    with pytest.raises(OutputError, match="No space left"):
        save_heads(path, random_heads(SETTINGS[0], target), target, FACTS)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["none/a.safetensors", "."])
def test_unwritable_places_are_refused(where: str, target: Target, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        save_heads(tmp_path / where, random_heads(SETTINGS[0], target), target, FACTS)
    assert not list(tmp_path.iterdir())


def test_no_checkpoint_is_shipped_for_other_models(target: Target) -> None:
    assert checkpoint.shipped("heads-ffn", target) is None
    assert checkpoint.shipped("no-such-name", target) is None


def test_shipped_checkpoints_fit_the_built_in_model() -> None:
    import skipopt

    target = skipopt.load("builtin", runtime="eager")
    heads = [checkpoint.shipped(name, target) for name in ("heads-ffn", "heads-medusa")]
    tokens = [checkpoint.shipped(f"mask-tokens{end}", target) for end in ("", "-skipped")]
    assert [load_heads(path, target).settings.shape for path in heads if path] == ["ffn", "medusa"]
    skipping = [bool(load_mask_tokens(path, target).body.skipped) for path in tokens if path]
    assert skipping == [False, True]
    total = sum(path.stat().st_size for path in [*heads, *tokens] if path)
    assert total <= 4e6
