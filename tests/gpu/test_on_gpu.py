"""Tests that need a CUDA device; skipped without one. Run them with `pytest -m gpu`."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import skipopt
from skipopt.decoding.api import generate
from skipopt.errors import UsageError
from skipopt.measurement.lossless import ComparedText, check_texts
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RUNTIMES = ("eager", "captured")
METHODS = ("layer-skip", "prompt-lookup", "cascade", "rsd-c", "rsd-s", "swift")
PROMPTS = 4
NEW_TOKENS = 40


@cache
def target_under(runtime: str, dtype: str) -> Target:
    try:
        return skipopt.load("builtin", dtype=dtype, device="cuda", runtime=runtime)
    except UsageError as error:
        pytest.skip(str(error))


def profile_for(target: Target) -> Profile:
    """A profile whose drafts are often accepted and often rejected."""
    return Profile.by_hand(target, attention=range(6, 22, 2), mlp=range(7, 22, 2), gamma=4)


def written(target: Target, prompt: list[int], method: str) -> tuple[int, ...]:
    profile = profile_for(target)
    tokens = generate(target, prompt, profile=profile, method=method, max_new_tokens=NEW_TOKENS)
    return tuple(token.id for token in tokens)


def prompts_for(target: Target) -> list[list[int]]:
    return [
        list(target.tokenizer(prompt.text)["input_ids"])
        for prompt in load_prompts().held_out[:PROMPTS]
    ]


def texts(target: Target, method: str) -> list[ComparedText]:
    """The texts of plain decoding and of the method after each prompt."""
    return [
        ComparedText(
            tuple(prompt), written(target, prompt, "plain"), written(target, prompt, method)
        )
        for prompt in prompts_for(target)
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_float32_text_equals_plain_decoding(runtime: str, method: str) -> None:
    for text in texts(target_under(runtime, "float32"), method):
        assert text.emitted == text.reference


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_bfloat16_text_equals_plain_decoding_within_rounding(runtime: str, method: str) -> None:
    target = target_under(runtime, "bfloat16")
    found = check_texts(target, texts(target, method))
    assert found.verdict != "failed", found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_captured_steps_write_the_text_of_eager_steps(dtype: str) -> None:
    eager, graphs = (target_under(runtime, dtype) for runtime in RUNTIMES)
    pairs = [
        ComparedText(tuple(p), written(eager, p, "plain"), written(graphs, p, "plain"))
        for p in prompts_for(eager)
    ]
    found = check_texts(eager, pairs)
    assert found.verdict == "exact" if dtype == "float32" else found.verdict != "failed", found


def test_some_drafts_are_rejected_and_some_accepted() -> None:
    """Otherwise the tests above would prove nothing."""
    target = target_under("eager", "float32")
    rounds = [
        each
        for prompt in prompts_for(target)
        for each in skipopt.generate_rounds(
            target,
            prompt,
            profile=profile_for(target),
            method="layer-skip",
            max_new_tokens=NEW_TOKENS,
        )
    ]
    accepted = sum(each.accepted for each in rounds)
    drafted = sum(len(each.drafted) for each in rounds)
    assert 0.2 * drafted < accepted < 0.95 * drafted


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_decoding_releases_its_memory(runtime: str) -> None:
    target = target_under(runtime, "bfloat16")
    prompt = prompts_for(target)[0]
    for _ in range(2):
        written(target, prompt, "layer-skip")
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        written(target, prompt, "layer-skip")
    weights = sum(p.numel() * p.element_size() for p in target.model.parameters())
    assert before >= weights
    assert torch.cuda.memory_allocated() <= before + weights // 100


def test_memory_bandwidth_and_work_of_the_device_are_measured() -> None:
    from benchmarks.gpu_parts.devices import (
        busy_seconds,
        copy_bandwidth,
        device_facts,
        peak_memory,
    )

    device = torch.device("cuda")
    numbers = torch.rand(2048, 2048, device=device)
    peak = peak_memory(device)
    assert peak is not None
    assert numbers.numel() * 4 <= peak <= device_facts(device)["memory_bytes"]
    assert copy_bandwidth(device, 1 << 28) > 1e10
    busy = busy_seconds(device, lambda: numbers @ numbers)
    assert busy is not None
    assert 0 < busy < 1


def test_weights_of_published_shapes_are_made_on_the_device() -> None:
    from benchmarks.gpu_parts.configs import SHAPES, random_model

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    small = {**SHAPES["Qwen3-8B"], "num_hidden_layers": 2}
    model = random_model(small, torch.device("cuda"))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    # A float32 copy of all would double it.
    assert torch.cuda.max_memory_allocated() - before < 1.5 * weights
