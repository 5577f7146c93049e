"""An exported folder decodes in transformers, and its text is that of plain greedy decoding."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from support.tiny import byte_tokenizer, tiny_llama, tiny_target
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

import skipopt
from skipopt.errors import OutputError, UsageError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.load import keep_target

PROMPT = "def f(a, b):"
LENGTH = 32


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama(vocabulary=257, gain=0.6).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def target(source: Path) -> Target:
    return kept(skipopt.load(source, runtime="eager"))


def kept(target: Target) -> Target:
    """The target, for decoders too: on the eager runtime drafts begin at once."""
    keep_target(target)
    return target


@pytest.fixture(scope="module")
def profile(target: Target) -> Profile:
    return Profile.by_hand(target, attention=[1], mlp=[1, 2], gamma=4)


@pytest.fixture(scope="module")
def folder(target: Target, profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return skipopt.export(target, profile, tmp_path_factory.mktemp("out") / "fast")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    kept(tiny_target(model))
    return model, AutoTokenizer.from_pretrained(folder)


def new_tokens(model: Any, encode: Any, **options: Any) -> list[int]:
    inputs = encode(PROMPT, return_tensors="pt")
    settings = {"do_sample": False, "max_new_tokens": LENGTH, "pad_token_id": 0, **options}
    output = model.generate(**inputs, **settings)
    new: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
    return new


def letter(tokenizer: Any, tokens: list[int]) -> str:
    """A character of one token, first seen after others."""
    texts = [tokenizer.decode([token]) for token in tokens]
    return next(
        text for i, text in enumerate(texts) if text.isascii() and text not in texts[:i] and i > 3
    )


def counted(model: Any) -> Any:
    """Statistics of the folder's decoder."""
    return model.generate.func.__globals__["DECODER"].last_statistics.rounds


def test_files_are_linked_and_the_profile_is_there(source: Path, folder: Path) -> None:
    assert (folder / "model.safetensors").resolve() == (source / "model.safetensors").resolve()
    assert Profile.load(folder / "profile.yaml").drafting.gamma == 4
    assert (folder / "custom_generate" / "requirements.txt").read_text().startswith("skipopt")
    assert not (folder / "config.json").is_symlink()


def test_the_loaded_folder_decodes_with_rejected_drafts(
    target: Target, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = loaded
    expected = new_tokens(target.model, tokenizer)
    for length in (LENGTH, 1, 2, 3, 5):  # the budget ends inside a draft
        assert new_tokens(model, tokenizer, max_new_tokens=length) == expected[:length]
    new_tokens(model, tokenizer)
    assert 0 < counted(model).accepted < counted(model).drafted


def test_another_model_object_decodes_by_the_name_of_the_folder(
    target: Target, folder: Path, loaded: tuple[Any, Any]
) -> None:
    _, tokenizer = loaded
    own = {"custom_generate": str(folder), "trust_remote_code": True}
    assert new_tokens(target.model, tokenizer, **own) == new_tokens(target.model, tokenizer)


def test_ends_and_stop_strings_inside_a_draft(target: Target, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    plain = new_tokens(target.model, tokenizer)
    for options in (
        {"eos_token_id": plain[9]},
        {"stop_strings": [letter(tokenizer, plain)], "tokenizer": tokenizer},
    ):
        expected = new_tokens(target.model, tokenizer, **options)
        assert len(expected) < LENGTH
        assert new_tokens(model, tokenizer, **options) == expected


def test_text_is_streamed(target: Target, loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = Thread(target=new_tokens, args=loaded, kwargs={"streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(new_tokens(target.model, tokenizer))


def test_a_model_given_as_an_object_is_saved(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tiny_target(tiny_llama(vocabulary=257), byte_tokenizer())
    profile = Profile.by_hand(target, attention=[1])
    made = skipopt.export(target, profile, tmp_path / "saved")
    assert capfd.readouterr().err == ""  # no progress bar
    model = AutoModelForCausalLM.from_pretrained(made, trust_remote_code=True)
    assert model.dtype == torch.float32
    assert new_tokens(model, target.tokenizer) == new_tokens(target.model, target.tokenizer)


def test_what_would_be_lost_is_refused(
    source: Path, target: Target, profile: Profile, folder: Path
) -> None:
    with pytest.raises(OutputError, match="own folder"):
        skipopt.export(target, profile, source, overwrite=True)
    with pytest.raises(OutputError, match="not empty"):
        skipopt.export(target, profile, folder)
    before = (source / "config.json").read_text()
    copied = skipopt.export(target, profile, folder, weights="copy", overwrite=True)
    assert not (copied / "model.safetensors").is_symlink()
    assert (source / "config.json").read_text() == before
    drafting = profile.drafting.model_copy(update={"method": "blockwise:checkpoint=h.safetensors"})
    with pytest.raises(UsageError, match=r"h\.safetensors"):
        skipopt.export(target, profile.model_copy(update={"drafting": drafting}), folder)
