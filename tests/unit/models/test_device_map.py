"""Models spread over devices or offloaded by accelerate decode the same, and run eagerly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lossless import assert_lossless, text
from support.tiny import byte_tokenizer, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models import device_map
from skipopt.models.device_map import input_device
from skipopt.models.skip import skipping
from skipopt.profile import Profile
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.scoring import ScoredText, Scorer
from skipopt.study.config import SearchConfig

accelerate = pytest.importorskip("accelerate")

CPU = torch.device("cpu")
OFFLOADED = "weights are offloaded, and loaded again for each use"
SPLIT = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}


def in_memory(model: Any, folder: Path) -> Any:
    accelerate.cpu_offload(model, CPU)
    return model


def on_disk(model: Any, folder: Path) -> Any:
    accelerate.disk_offload(model, str(folder), execution_device=CPU)
    return model


@pytest.fixture(params=[in_memory, on_disk])
def offloaded(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param(tiny_llama(), tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = byte_tokenizer()
    tiny_llama(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_an_offloaded_model_is_recognized_and_decodes_the_same(offloaded: Any) -> None:
    target, whole = make_target(offloaded, None), tiny_target()
    assert target.fingerprint == whole.fingerprint
    assert_lossless(target, whole)


def test_an_offloaded_model_runs_eagerly_whatever_is_asked_for(
    offloaded: Any, packed_wins: None
) -> None:
    target = make_target(offloaded, None, runtime="prepacked")
    assert (target.runtime.name, target.runtime.eager_only_reason) == ("eager", OFFLOADED)
    assert make_target(tiny_llama(), None, runtime="prepacked").runtime.eager_only_reason is None


def test_skipping_leaves_the_hooks_that_fetch_weights(offloaded: Any) -> None:
    before = {name: module.forward for name, module in offloaded.named_modules()}
    target = make_target(offloaded, None)
    text(target, tiny_prompts(1)[0], Profile.by_hand(target, attention=[1], mlp=[2]))
    assert {name: module.forward for name, module in offloaded.named_modules()} == before
    assert all(p.device.type == "meta" for p in offloaded.parameters()), "nothing stays in memory"


def test_weights_of_skipped_sublayers_are_not_fetched(
    offloaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_target(offloaded, None)
    names = {id(module): name for name, module in offloaded.named_modules()}
    fetched: list[str] = []
    fetch = accelerate.hooks.AlignDevicesHook.pre_forward

    def counted(hook: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        if any(True for _ in module.parameters(recurse=False)):
            fetched.append(names[id(module)])
        return fetch(hook, module, *args, **kwargs)

    monkeypatch.setattr(accelerate.hooks.AlignDevicesHook, "pre_forward", counted)
    engine = Engine(target, 8)
    engine.step([1, 2])
    assert "model.layers.1.mlp.up_proj" in fetched
    fetched.clear()
    with skipping(target, SkipMask.of(3, (0, 1, 2), (0, 1, 2))):
        engine.step([3])
    assert fetched == ["model.embed_tokens", "model.norm", "lm_head"]


def test_an_offloaded_model_has_the_same_scores(offloaded: Any) -> None:
    mask = SkipMask.of(3, (1,), (2,))
    texts = [ScoredText(tuple(prompt), 3) for prompt in tiny_prompts(2, shortest=8, longest=9)]
    found, expected = (
        Scorer(target, texts).score([mask])[0]
        for target in (make_target(offloaded, None), tiny_target())
    )
    assert found.matched.tolist() == expected.matched.tolist()


@pytest.mark.slow
def test_an_offloaded_model_can_be_searched(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    model = in_memory(tiny_llama(vocabulary=len(tokenizer)), tmp_path)
    target = make_target(model, tokenizer)
    prompts = [f"def {name}(a, b):" for name in "abcdefghijkl"]
    config = SearchConfig(
        calibration_tokens=12, cost_seconds=0.2, num_finalists=1, validation_repeats=1
    )
    profile = skipopt.search(target, prompts, config, trials=4)
    assert profile.environment is not None
    assert profile.environment.runtime == "eager"
    assert_lossless(target, tiny_target(tiny_llama(vocabulary=len(tokenizer))))
    ids = tokenizer("def f").input_ids
    assert text(target, ids, profile) == text(target, ids)


@pytest.mark.slow
@pytest.mark.parametrize("device_map", ["disk", SPLIT], ids=["all", "two layers"])
def test_a_device_map_may_send_weights_to_disk(saved: Path, device_map: Any) -> None:
    target = skipopt.load(saved, device_map=device_map, runtime="prepacked")
    whole = skipopt.load(saved, device="cpu", runtime="eager")
    assert (target.runtime.name, target.runtime.eager_only_reason) == ("eager", OFFLOADED)
    assert (target.fingerprint, target.dtype) == (whole.fingerprint, "float32")
    assert_lossless(target, whole)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_model_that_fits_on_one_device_is_not_eager_only(
    saved: Path, device_map: Any, packed_wins: None
) -> None:
    target = skipopt.load(saved, device_map=device_map, runtime="prepacked")
    assert target.runtime.eager_only_reason is None
    if torch.cuda.is_available():
        pytest.skip("auto is the GPU")
    assert target.runtime.name == "prepacked"


def test_a_model_spread_over_devices_runs_eagerly(packed_wins: None) -> None:
    model = tiny_llama()
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "lm_head": 1}
    target = make_target(model, None, runtime="prepacked")
    assert (target.runtime.name, target.runtime.eager_only_reason) == (
        "eager",
        "weights are spread over 0, 1",
    )
    model.hf_device_map = {"": 0}
    assert make_target(model, None, runtime="prepacked").runtime.name == "prepacked"


def test_ids_go_where_an_offloaded_embedding_is_computed() -> None:
    model = tiny_llama()
    accelerate.cpu_offload(model, CPU)
    assert input_device(model) == CPU
    model.get_input_embeddings()._hf_hook.execution_device = "cuda:1"
    assert input_device(model) == torch.device("cuda:1")


def refused(load: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(UsageError) as refusal:
        load()
    return str(refusal.value), refusal.value.hint or ""


def test_an_unknown_device_map_is_refused(saved: Path) -> None:
    message, hint = refused(lambda: skipopt.load(saved, device_map="toaster"))
    assert "'toaster'" in message
    assert "balanced" in hint


def test_without_accelerate_the_hint_names_the_package(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_map, "find_spec", lambda name: None)
    message, hint = refused(lambda: skipopt.load(saved, device_map="auto"))
    assert "accelerate" in message
    assert hint == "pip install 'skipopt[large]'"
