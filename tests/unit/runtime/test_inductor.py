"""The runtime `compiled`: steps through torch.compile, and the notice where that fails."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from support.tiny import tiny_llama, tiny_target
from torch import Tensor

from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime import step_cache
from skipopt.runtime.engine import Engine

NEAR = 2e-5
PROMPT = [5, 9, 2, 7, 11, 3]
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)


def both() -> tuple[Target, Target]:
    """The same weights, compiled and as they are."""
    made = [tiny_target(tiny_llama(2), runtime=runtime) for runtime in ("inductor", "eager")]
    return made[0], made[1]


def near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < NEAR)


@pytest.mark.slow
@needs_compiler
def test_compiled_steps_are_the_models_own() -> None:
    targets = both()
    engines = [Engine(target, 64) for target in targets]
    for engine in engines:
        engine.prefill(PROMPT)
    mask = SkipMask.of(2, [1], [0])
    for token in (4, 8):
        with engines[0].draft_mode(mask), engines[1].draft_mode(mask):
            assert near(*(engine.step([token]) for engine in engines))
        for engine in engines:
            engine.rewind(engine.position - 1)
        assert near(*(engine.step([token, 1, 2]) for engine in engines))
    compiled = targets[0]
    assert (compiled.runtime.name, compiled.runtime.step_caches.unsupported_reason) == (
        "inductor",
        None,
    )
    assert compiled.runtime.step_caches.num_captured == 2
    assert compiled.runtime.kernels.extra_bytes == compiled.runtime.step_caches.extra_bytes == 0
    assert compiled.runtime.step_caches.capture_seconds > 0


def no_compiler(*_: Any) -> Any:
    raise RuntimeError("No working C++ compiler found")


def test_where_nothing_can_be_compiled_steps_are_eager_with_a_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_cache, "compile_section", no_compiler)
    target, eager = both()
    assert near(Engine(target, 32).step(PROMPT[:3]), Engine(eager, 32).step(PROMPT[:3]))
    assert target.runtime.name == "eager"
    assert target.runtime.step_caches.unsupported_reason == "No working C++ compiler found"
