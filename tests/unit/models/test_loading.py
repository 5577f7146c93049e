"""Loading a target and its fingerprint; failures are one line and a hint."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.architectures import build
from support.tiny import save_tokenizer

import skipopt
from skipopt.errors import ModelError, SkipoptError, UsageError
from skipopt.models.identity import fingerprint
from skipopt.models.loading import resolve_device, resolve_dtype

OFFLINE = """
import sys, skipopt
try:
    skipopt.load(sys.argv[1])
except skipopt.SkipoptError as error:
    print(type(error).__name__, error, error.hint, sep="\\n")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    build("llama").save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved model that a test may damage."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def refused(kind: type[SkipoptError], load: Callable[[], Any]) -> str:
    """The error message, checked to be one line with a hint."""
    with pytest.raises(kind) as refusal:
        load()
    message = str(refusal.value)
    assert refusal.value.hint
    assert "\n" not in message + refusal.value.hint
    assert len(message) < 400
    return message


def add_weights(folder: Path, *names: str) -> None:
    """Put weights of these names into a saved model."""
    weights = load_file(folder / "model.safetensors")
    extra = {name: torch.ones(32) for name in names}
    save_file(weights | extra, folder / "model.safetensors", {"format": "pt"})


class TestWhatLoads:
    def test_other_weights_that_are_not_read_are_told(self, copied: Path) -> None:
        names = ["mtp.layers.0.up_proj.weight", "model.vision_tower.layers.0.bias"]
        add_weights(copied, *names, "model.layers.0.self_attn.rotary_emb.inv_freq")
        notices: list[str] = []
        skipopt.load(copied, runtime="eager", on_notice=notices.append)
        assert len(notices) == 1
        assert "2 weights are not read, 'model.vision_tower.layers.0.bias' among" in notices[0]

    def test_nothing_is_told_of_a_complete_model(self, saved: Path) -> None:
        notices: list[str] = []
        skipopt.load(saved, runtime="eager", on_notice=notices.append)
        assert notices == []

    def test_a_folder(self, saved: Path) -> None:
        target = skipopt.load(saved, device="cpu")
        assert (target.architecture, target.depth) == ("LlamaForCausalLM", 3)
        assert (target.dtype, target.device.type) == ("float32", "cpu")
        assert target.model_id == str(saved)
        assert target.context_limit == 128
        assert target.tokenizer.decode([5]) == "w5"
        assert not target.model.training

    def test_a_folder_in_bfloat16(self, saved: Path) -> None:
        assert skipopt.load(saved, device="cpu", dtype="bfloat16").dtype == "bfloat16"

    def test_a_head_that_is_stored_as_embeddings_only(self, copied: Path) -> None:
        model = build("llama")
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(copied)
        assert "lm_head.weight" not in load_file(copied / "model.safetensors")
        weights = skipopt.load(copied, device="cpu").model
        assert torch.equal(weights.lm_head.weight, weights.model.embed_tokens.weight)

    def test_a_model_and_tokenizer_in_memory(self) -> None:
        model, tokenizer = build("gpt2"), object()
        target = skipopt.load((model.train(), tokenizer), runtime="eager")
        assert target.model is model
        assert target.tokenizer is tokenizer
        assert target.model_id == "GPT2LMHeadModel"
        assert not model.training

    def test_options_reach_from_pretrained(self, saved: Path) -> None:
        target = skipopt.load(saved, device="cpu", attn_implementation="eager")
        assert target.model.config._attn_implementation == "eager"

    def test_end_of_text_tokens_are_found(self) -> None:
        model = build("llama")
        model.generation_config.eos_token_id = [3, 4]
        assert skipopt.load((model, None), runtime="eager").eos_ids == {3, 4}
        model.generation_config.eos_token_id = 3
        assert skipopt.load((model, None), runtime="eager").eos_ids == {3}


class TestWhatDoesNot:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere"
        assert str(path) in refused(ModelError, lambda: skipopt.load(path))

    def test_a_file(self, copied: Path) -> None:
        path = copied / "config.json"
        assert str(path) in refused(ModelError, lambda: skipopt.load(path))

    @pytest.mark.slow
    def test_a_missing_hub_id_offline(self, tmp_path: Path) -> None:
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        environment = os.environ | offline | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE, "nobody/nothing"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        kind, message, hint = done.stdout.splitlines()
        assert kind == "ModelError"
        assert "'nobody/nothing' was not found" in message
        assert "HF_HUB_OFFLINE" in hint

    def test_an_invalid_model_name(self) -> None:
        message = refused(ModelError, lambda: skipopt.load("not/a/name"))
        assert "'not/a/name' was not found" in message

    def test_an_encoder_decoder(self, tmp_path: Path) -> None:
        build("t5").save_pretrained(tmp_path)
        assert "encoder-decoder" in refused(ModelError, lambda: skipopt.load(tmp_path))

    def test_a_type_that_is_no_language_model(self, copied: Path) -> None:
        (copied / "config.json").write_text('{"model_type": "vit"}')
        assert "not a decoder-only" in refused(ModelError, lambda: skipopt.load(copied))

    def test_an_unknown_type(self, copied: Path) -> None:
        (copied / "config.json").write_text('{"model_type": "no such type"}')
        assert "not a decoder-only" in refused(ModelError, lambda: skipopt.load(copied))

    def test_an_encoder(self, tmp_path: Path) -> None:
        build("bert encoder").save_pretrained(tmp_path)
        save_tokenizer(tmp_path)
        assert "BertLMHeadModel is an encoder" in refused(
            ModelError, lambda: skipopt.load(tmp_path, runtime="eager")
        )

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": 3}', "{}"])
    def test_a_broken_config(self, copied: Path, text: str) -> None:
        (copied / "config.json").write_text(text)
        assert str(copied) in refused(ModelError, lambda: skipopt.load(copied))

    def test_a_config_that_does_not_fit_the_weights(self, copied: Path) -> None:
        config = json.loads((copied / "config.json").read_text())
        (copied / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
        assert str(copied) in refused(ModelError, lambda: skipopt.load(copied))

    def test_missing_weights(self, copied: Path) -> None:
        (copied / "model.safetensors").unlink()
        message = refused(ModelError, lambda: skipopt.load(copied))
        assert str(copied) in message

    def test_a_weight_that_the_checkpoint_lacks(self, copied: Path) -> None:
        weights = load_file(copied / "model.safetensors")
        name = "model.layers.1.mlp.up_proj.weight"
        del weights[name]
        save_file(weights, copied / "model.safetensors", {"format": "pt"})
        message = refused(ModelError, lambda: skipopt.load(copied))
        assert f"lacks 1 of the model's weights, {name!r}" in message

    @pytest.mark.parametrize(
        "name",
        [
            "model.layers.3.mlp.up_proj.weight",
            "layers.3.mlp.up_proj.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.1.post_attention_layernorm.bias",
            "model.embed_tokens.scale",
            "lm_head.bias",
        ],
    )
    def test_a_weight_of_the_decoder_that_the_configuration_leaves_out(
        self, copied: Path, name: str
    ) -> None:
        add_weights(copied, name)
        message = refused(ModelError, lambda: skipopt.load(copied))
        assert "holds 1 weights that its configuration leaves out" in message
        assert name in message

    def test_a_configuration_with_fewer_layers_than_the_weights(self, copied: Path) -> None:
        config = json.loads((copied / "config.json").read_text())
        (copied / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
        message = refused(ModelError, lambda: skipopt.load(copied))
        assert "model.layers.2." in message

    @pytest.mark.parametrize("share", [0, 0.001, 0.5])
    def test_truncated_weights(self, copied: Path, share: float) -> None:
        weights = copied / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[: int(share * len(whole))])
        assert str(copied) in refused(ModelError, lambda: skipopt.load(copied))

    def test_a_missing_tokenizer(self, copied: Path) -> None:
        for file in copied.glob("tokenizer*"):
            file.unlink()
        assert "tokenizer" in refused(ModelError, lambda: skipopt.load(copied)).replace(
            str(copied), ""
        )

    def test_a_broken_tokenizer(self, copied: Path) -> None:
        (copied / "tokenizer.json").write_text("{")
        assert "tokenizer" in refused(ModelError, lambda: skipopt.load(copied)).replace(
            str(copied), ""
        )

    def test_an_unknown_dtype(self, saved: Path) -> None:
        message = refused(UsageError, lambda: skipopt.load(saved, dtype="float12"))
        assert "float12" in message

    @pytest.mark.parametrize("device", ["toaster", "cpu:cpu", "cuda:99", "xpu", "hpu:0", ""])
    def test_an_unknown_or_absent_device(self, saved: Path, device: str) -> None:
        message = refused(UsageError, lambda: skipopt.load(saved, device=device))
        assert repr(device) in message

    def test_an_unknown_runtime(self, saved: Path) -> None:
        message = refused(UsageError, lambda: skipopt.load(saved, device="cpu", runtime="warp"))
        assert "warp" in message


class TestDeviceAndDtype:
    def test_the_cpu_computes_in_float32_by_default(self) -> None:
        assert resolve_dtype("auto", "cpu") == torch.float32
        assert resolve_dtype("bfloat16", "cpu") == torch.bfloat16

    def test_a_gpu_computes_in_the_checkpoints_dtype(self) -> None:
        assert resolve_dtype("auto", "cuda") == "auto"

    def test_auto_is_a_device_that_is_there(self) -> None:
        assert torch.empty(1, device=resolve_device("auto")).numel() == 1


class TestFingerprint:
    def test_the_dtype_makes_no_difference(self, saved: Path) -> None:
        full, half = (skipopt.load(saved, device="cpu", dtype=d) for d in ("float32", "bfloat16"))
        assert full.fingerprint == half.fingerprint
        assert full.fingerprint.startswith("sha256:")

    def test_saving_and_loading_makes_no_difference(self, saved: Path) -> None:
        assert skipopt.load(saved, device="cpu").fingerprint == fingerprint(build("llama"))

    def test_one_other_matrix_makes_a_difference(self) -> None:
        model = build("llama")
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.model.layers[2].mlp.down_proj.weight.mul_(1.5)
        assert fingerprint(other) != fingerprint(model)

    def test_another_architecture_makes_a_difference(self) -> None:
        assert fingerprint(build("llama")) != fingerprint(build("qwen2"))
