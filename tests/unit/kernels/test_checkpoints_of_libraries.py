"""Checkpoints that torchao and compressed-tensors read decode the text of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import command_line, expect_error
from support.compressed_checkpoints import save_int8
from support.tiny import save_tokenizer, tiny_llama
from transformers import AutoModelForCausalLM

import skipopt
from skipopt.models.target import Target
from skipopt.profile import Profile

PROMPTS = ([5, 61, 17, 33], [9, 2, 40, 41, 9, 2])
NEW = 16
METHODS = (None, "plain", "prompt-lookup", "layer-skip:quant=int8:gamma=3")


def torchao_int8(folder: Path) -> None:
    """Written by transformers, which stores integers and scales."""
    quantization = pytest.importorskip("torchao.quantization", exc_type=ImportError)
    dense = folder / "dense"
    tiny_llama(layers=3, gain=2.0).save_pretrained(dense)
    from transformers import TorchAoConfig

    scheme = TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2))
    model = AutoModelForCausalLM.from_pretrained(dense, quantization_config=scheme)
    model.save_pretrained(folder)


def compressed_int8(folder: Path) -> None:
    pytest.importorskip("compressed_tensors", exc_type=ImportError)
    save_int8(tiny_llama(layers=3, gain=2.0), folder)


@pytest.fixture(params=[torchao_int8, compressed_int8], ids=lambda write: write.__name__)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write: Callable[[Path], None] = request.param
    write(tmp_path)
    save_tokenizer(tmp_path)
    return tmp_path


def references(folder: Path) -> list[list[int]]:
    """The greedy texts of transformers."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        texts = [model.generate(torch.tensor([each]), **options)[0] for each in PROMPTS]
    return [each.tolist()[len(p) :] for each, p in zip(texts, PROMPTS, strict=True)]


def texts(target: Target, profile: Profile | None, method: str | None) -> list[list[int]]:
    options = {"profile": profile, "method": method, "max_new_tokens": NEW}
    return [
        [token.id for token in skipopt.generate(target, prompt, **options)]  # type: ignore[arg-type]
        for prompt in PROMPTS
    ]


@pytest.mark.filterwarnings("ignore::skipopt.errors.DraftConfigWarning")
def test_the_text_is_that_of_transformers(checkpoint: Path) -> None:
    expected = references(checkpoint)
    for runtime in ("eager", "auto", "captured"):
        target = skipopt.load(str(checkpoint), device="cpu", dtype="float32", runtime=runtime)
        before = target.fingerprint
        profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=3)
        for method in METHODS:
            assert texts(target, profile, method) == expected, (runtime, method)
        again = skipopt.load(str(checkpoint), device="cpu", dtype="float32", runtime=runtime)
        assert again.fingerprint == before
        profile.check_model(again)


def test_a_scheme_that_this_machine_cannot_read_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from support.int4_checkpoints import write_quantization_config

    cli = command_line(monkeypatch, tmp_path, capsys)
    folder = tmp_path / "fp8"
    tiny_llama(layers=2).save_pretrained(folder)
    save_tokenizer(folder)
    write_quantization_config(folder, {"quant_method": "eetq"})
    expect_error(cli("run", folder, "--prompt", "w3"), 1, "quantized", "EETQ")
