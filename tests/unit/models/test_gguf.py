"""A GGUF file loads as the model it was written from; every other file is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.gguf_files import cut, write_gguf
from support.tiny import tiny_llama

import skipopt
from skipopt.errors import ModelError, ProfileError
from skipopt.models import gguf
from skipopt.profile import Profile

TOKENS = [5, 9, 2, 33, 17]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_llama())


def refused(path: Path | str) -> str:
    """The error message, checked to be one line with a hint."""
    with pytest.raises(ModelError) as refusal:
        skipopt.load(path, device="cpu", runtime="eager")
    message = str(refusal.value)
    assert refusal.value.hint
    assert "\n" not in message
    assert len(message) < 300
    return message


def test_the_weights_the_tokenizer_and_the_template_are_those_of_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    target = skipopt.load("tiny.gguf", device="cpu", runtime="eager")
    ids = torch.tensor([TOKENS])
    torch.testing.assert_close(target.model(ids).logits, tiny_llama()(ids).logits)
    assert (target.dtype, target.depth, target.context_limit) == ("float32", 3, 256)
    assert target.tokenizer.chat_template
    assert target.eos_ids == {63}
    assert target.model_id == str(file)  # absolute, so that a profile finds it from elsewhere


def test_a_profile_of_one_file_is_refused_for_another(file: Path, tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "tiny.gguf", tiny_llama(seed=1))
    first, second = (skipopt.load(p, device="cpu", runtime="eager") for p in (file, other))
    profile = Profile.by_hand(first, attention=[1])
    assert profile.model.id == str(file)
    with pytest.raises(ProfileError):
        profile.check_model(second)


def test_a_file_is_known_by_its_first_bytes_too(file: Path, tmp_path: Path) -> None:
    blob = tmp_path / "sha256-0123"  # as some programs store their downloads
    blob.write_bytes(file.read_bytes())
    assert gguf.gguf_path(blob) == blob
    assert gguf.gguf_path("org/model-GGUF") is None
    assert gguf.gguf_path(tmp_path) is None


def test_a_missing_file() -> None:
    assert "no GGUF file at '/nowhere/x.gguf'" in refused("/nowhere/x.gguf")


@pytest.mark.parametrize("data", [b"", b"GG", b"<html>not found</html>"])
def test_another_kind_of_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    assert "is not a GGUF file" in refused(path)


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.3, 0.999])
def test_a_truncated_file(file: Path, share: float) -> None:
    assert "cut-tiny.gguf" in refused(cut(file, share))


def test_an_architecture_that_the_loader_lacks(tmp_path: Path) -> None:
    message = refused(write_gguf(tmp_path / "new.gguf", tiny_llama(), "newest"))
    assert "new.gguf" in message
    assert "newest" in message


def test_a_file_that_lacks_a_weight(tmp_path: Path) -> None:
    lacking = "model.layers.1.mlp.up_proj.weight"
    path = write_gguf(tmp_path / "part.gguf", tiny_llama(), without=lacking)
    assert f"lacks 1 of the model's weights, '{lacking}'" in refused(path)


def test_scaled_positions_are_refused(tmp_path: Path) -> None:
    scaled = write_gguf(tmp_path / "s.gguf", tiny_llama(), rope__scaling__type="yarn")
    assert "scales its rotary positions" in refused(scaled)


def test_positions_that_are_said_not_to_be_scaled(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "n.gguf", tiny_llama(), rope__scaling__type="none")
    gguf.check_positions(path, tiny_llama().config)


def test_without_the_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(ModelError, match="needs gguf") as refusal:
        skipopt.load(file, device="cpu")
    assert refusal.value.hint == "pip install 'skipopt[gguf]'"
