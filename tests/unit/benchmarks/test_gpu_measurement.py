"""Measured device work, bytes read per step, published shapes, compiled plain decoding."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from support.tiny import tiny_llama, tiny_target

from benchmarks.gpu_parts import devices
from benchmarks.gpu_parts.compiled import CompiledPlain
from benchmarks.gpu_parts.configs import SHAPES, random_model
from benchmarks.gpu_parts.session import TOY
from benchmarks.gpu_parts.shapes import Times
from benchmarks.gpu_parts.steps import Steps
from benchmarks.gpu_parts.weights import kept_bytes, random_masks, read_bytes
from skipopt.masks import SkipMask
from skipopt.measurement.runners import SkipoptRunner
from skipopt.methods import parse_method
from skipopt.runtime.load import make_target

CPU = torch.device("cpu")


def test_overlapping_and_nested_work_counts_once() -> None:
    assert devices.covered([(5, 6), (0, 3), (1, 2), (2, 4)]) == 5
    assert devices.covered([]) == 0


def test_a_device_is_busy_for_part_of_the_time_at_most() -> None:
    numbers = torch.rand(64, 64)

    def work() -> None:
        for _ in range(20):
            numbers @ numbers
        time.sleep(0.05)

    began = time.perf_counter()
    busy = devices.busy_seconds(CPU, work)
    took = time.perf_counter() - began
    assert busy is not None
    assert 0 < busy < took - 0.05
    assert devices.busy_seconds(CPU, lambda: None) is None


def test_read_and_written_bytes_of_a_copy_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "elapsed", lambda device, run: 0.5)
    assert devices.copy_bandwidth(CPU, 1000) == 4000


def test_a_plain_step_reads_all_but_the_embedding_and_a_mask_reads_less() -> None:
    model = tiny_llama(layers=3)
    target = make_target(model, None, runtime="eager")
    layers = model.model.layers

    def size(*modules: Any) -> int:
        return sum(p.numel() * 4 for module in modules for p in module.parameters())

    cache = 2 * 10 * 2 * 8 * 4  # keys and values, tokens, heads, width, bytes
    whole = size(layers, model.model.norm, model.lm_head) + 3 * cache
    assert read_bytes(target, 10) == whole
    mask = SkipMask.of(3, attention=[1], mlp=[2])
    spared = size(layers[1].self_attn, layers[1].input_layernorm) + cache
    spared += size(layers[2].mlp, layers[2].post_attention_layernorm)
    assert kept_bytes(target, mask, 10) == whole - spared


def test_a_tied_embedding_is_read_as_the_head() -> None:
    model = tiny_llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    target = make_target(model, None, runtime="eager")
    assert read_bytes(target, 0) == sum(p.numel() * 4 for p in model.parameters())


def test_masks_skip_from_few_to_most() -> None:
    counts = [len(mask.skipped) for mask in random_masks(24)]
    assert counts == sorted(counts)
    assert (len(counts), counts[0], counts[-1]) == (10, 2, 46)


def test_ratios_are_paired_with_the_plain_round_before() -> None:
    times = Times()
    for plain, other in ((1.0, 2.0), (10.0, 20.0), (5.0, 10.0)):
        times.plain.append(plain)
        times.add(3, other)
    found = times.ratio(3)
    assert [found.median, found.low, found.high] == pytest.approx([2, 2, 2])


def test_timing_a_step_leaves_the_text_as_it_was() -> None:
    target = tiny_target()
    steps = Steps(target, list(range(20)), max_verified=16)
    state = steps._state
    before = (list(state.tokens), state.engine.position)
    mask = SkipMask.of(target.depth, attention=[1])
    assert min(steps.round(1), steps.round(16), steps.draft_step(mask)) > 0
    assert (state.tokens, state.engine.position) == before


@pytest.mark.parametrize("name", list(SHAPES))
def test_published_shapes_are_built_in_bfloat16(name: str) -> None:
    model = random_model({**SHAPES[name], **TOY.shrink}, CPU)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert model.lm_head.weight.detach().float().std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(("name", "billions"), [("Llama-3.1-8B", 8.03), ("Qwen3-8B", 8.19)])
def test_published_shapes_have_the_published_size(name: str, billions: float) -> None:
    model = random_model(SHAPES[name], torch.device("meta"))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.slow
def test_compiled_plain_decoding_writes_the_same_text() -> None:
    target = tiny_target(tiny_llama(gain=1.5))
    plain = SkipoptRunner(target, parse_method("plain"))
    compiled = CompiledPlain("plain-compiled", target, 40, TOY.compile)
    for prompt in ([1, 2, 3, 4], [9, 8, 7, 6, 5, 4, 3]):
        expected = plain.decode(prompt, 20, time.perf_counter)
        found = compiled.decode(prompt, 20, time.perf_counter)
        assert found.tokens == expected.tokens
        assert found.timed_tokens == 20
