"""When steps are captured, which engine has their cache, and models that cannot be captured."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.native import needs_native
from support.step_cache import PROMPT, near, targets
from support.tiny import tiny_llama, tiny_target
from torch import Tensor, nn

from skipopt.errors import PromptError
from skipopt.models.target import Target
from skipopt.runtime import setup
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.runtime.step_cache import (
    CAPTURE_ROWS,
    bucket_capacity,
    bucket_rows,
    slots_for,
)


def test_rows_and_reads_grow_by_half_at_most() -> None:
    lengths = sorted({bucket_capacity(end) for end in range(1, 5000)})
    assert lengths[:5] == [128, 192, 256, 384, 512]
    assert all(bucket_capacity(end) >= end for end in range(1, 5000))
    assert all(b <= 1.5 * a for a, b in pairwise(lengths))
    assert [bucket_rows(n) for n in (1, 8, 9, 64, 65)] == [1, 8, 10, 64, None]


def broken(monkeypatch: pytest.MonkeyPatch, forward: Callable[..., Any]) -> Target:
    target = tiny_target(tiny_llama(2), runtime="captured")
    mlp = target.layers[0].mlp[0].module
    own = type(mlp).forward
    monkeypatch.setattr(type(mlp), "forward", lambda self, x: forward(x, own(self, x)))
    return target


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x, y: y * float(y.abs().max()), "reads a value"),
        (lambda x, y: y * y.tolist()[0][0][0], "differs"),
    ],
)
def test_a_model_that_cannot_be_captured_runs_eagerly(
    monkeypatch: pytest.MonkeyPatch, forward: Callable[..., Any], reason: str
) -> None:
    target = broken(monkeypatch, forward)
    found = Engine(target, 32)
    logits = [found.step([token]) for token in PROMPT]
    assert target.runtime.step_caches.unsupported_reason is not None
    assert reason in target.runtime.step_caches.unsupported_reason
    assert target.runtime.name in ("eager", "prepacked")
    fresh = Engine(target, 32)
    assert fresh.step_cache is None
    assert all(near(a, fresh.step([token])) for a, token in zip(logits, PROMPT, strict=True))


def test_the_reason_against_capturing_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama(2)
    mlp = type(model.model.layers[0].mlp)
    own = mlp.forward

    def reads_a_value(self: nn.Module, x: Tensor) -> Tensor:
        y = own(self, x)
        return y * float(y.abs().max())

    monkeypatch.setattr(mlp, "forward", reads_a_value)
    notices: list[str] = []
    target = make_target(model, None, runtime="captured", on_notice=notices.append)
    assert notices == []
    for _ in range(2):
        Engine(target, 32).step([1])
    [notice] = notices
    assert "steps are not captured, the host reads a value" in notice
    assert notice.startswith(f"runtime {target.runtime.name}: ")


@pytest.mark.parametrize("runtime", ["captured", pytest.param("native", marks=needs_native)])
def test_steps_run_eagerly_until_capturing_is_worth_it(runtime: str) -> None:
    target = tiny_target(tiny_llama(2), runtime=runtime)
    target.runtime.step_caches.min_uses = 3
    engine = Engine(target, 40)
    for _ in range(target.runtime.step_caches.min_uses):
        engine.step([1])
        engine.rewind(0)
    assert target.runtime.step_caches.num_captured == 0
    engine.step([1])
    assert target.runtime.step_caches.num_captured == 1
    with target.runtime.capture_immediately():
        engine.step([1, 2])
    # One native step serves any number of rows.
    assert target.runtime.step_caches.num_captured == (1 if runtime == "native" else 2)
    clock = target.runtime.clock_without_capture(lambda: 10.0)
    assert clock() == 10.0 - target.runtime.step_caches.capture_seconds < 10.0


@needs_native
def test_native_steps_are_recorded_at_their_first_use() -> None:
    target = tiny_target(tiny_llama(2), runtime="auto")
    assert target.runtime.name == "native"
    Engine(target, 40).step([1])
    assert target.runtime.step_caches.num_captured == 1


def test_garbage_is_not_collected_during_a_capture() -> None:
    pool = tiny_target(tiny_llama(2), runtime="eager").runtime.step_caches
    with pool.timed_capture():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with pool.timed_capture():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_steps_are_borrowed_by_one_engine_at_a_time() -> None:
    target, _ = targets()
    first = Engine(target, 40)
    first.step([1])
    second = Engine(target, 40)
    assert second.cache is not first.cache
    steps = first.step_cache
    first.rewind(0)
    del first
    gc.collect()
    third = Engine(target, 30)
    assert third.step_cache is steps
    assert (third.position, third.cache.capacity) == (0, 30)
    before = target.runtime.step_caches.num_captured
    third.step([1])
    assert target.runtime.step_caches.num_captured == before
    third.rewind(30)
    with pytest.raises(PromptError, match="31 tokens"):
        third.step([1])


def test_a_longer_text_gets_a_larger_cache() -> None:
    target, _ = targets()
    Engine(target, 20).step([1])
    gc.collect()
    assert Engine(target, 200).cache.num_slots >= 200 + CAPTURE_ROWS[-1]
    for capacity in range(1, 9000, 7):
        slots = slots_for(capacity)
        assert capacity + CAPTURE_ROWS[-1] <= slots
        assert slots <= max(1.5 * (capacity + CAPTURE_ROWS[-1]), 128)
        assert slots <= capacity + 1024 + CAPTURE_ROWS[-1]


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [(torch.float32, "the kernels are not installed"), (torch.float16, "the model is in float16")],
)
def test_native_that_was_asked_for_and_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, reason: str
) -> None:
    monkeypatch.setattr(setup, "native_kernels", lambda: None)
    for asked, expected in (
        ("native", [f"runtime captured: steps are not native, {reason}"]),
        ("auto", []),
    ):
        notices: list[str] = []
        make_target(tiny_llama().to(dtype), None, runtime=asked, on_notice=notices.append)
        assert notices == expected
