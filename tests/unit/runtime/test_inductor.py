"""The runtime `inductor`: steps through torch.compile, and the notice where that fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.tiny import tiny_llama, tiny_target
from torch import Tensor, fx, nn

from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime import inductor, step_cache
from skipopt.runtime.engine import Engine
from skipopt.runtime.tracing import record

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
    monkeypatch.setattr(
        step_cache, "SectionCompiler", lambda: inductor.SectionCompiler(no_compiler)
    )
    target, eager = both()
    assert near(Engine(target, 32).step(PROMPT[:3]), Engine(eager, 32).step(PROMPT[:3]))
    assert target.runtime.name == "eager"
    assert target.runtime.step_caches.unsupported_reason == "No working C++ compiler found"


def as_it_is(section: fx.GraphModule, given: Sequence[Tensor]) -> Callable[..., Any]:
    forward: Callable[..., Any] = section.forward
    return forward


def test_layers_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = inductor.SectionCompiler(as_it_is)
    monkeypatch.setattr(step_cache, "SectionCompiler", lambda: compiler)
    target = tiny_target(tiny_llama(6), runtime="inductor")
    eager = Engine(tiny_target(tiny_llama(6)), 64)
    engine = Engine(target, 64)
    for tokens in ([1], [2]):
        assert near(engine.step(tokens), eager.step(tokens))
    assert target.runtime.name == "inductor"
    assert compiler.num_compiled == 3  # before the layers, one layer, after them


@pytest.mark.parametrize("other", [1.5, 2])
def test_equal_sections_are_compiled_once(other: float) -> None:
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    factors = [1, 1, 1, 1, other]

    def call(x: Tensor) -> Sequence[Tensor]:
        for layer, factor in zip(layers, factors, strict=True):
            x = layer(x) * factor
        return [x]

    compiler, given = inductor.SectionCompiler(as_it_is), [torch.randn(2, 4)]
    with torch.inference_mode():
        recording, expected = record(call, given, list(layers))
        run = compiler.compile(recording, given)
        assert torch.equal(run(*given)[0], expected[0])
        assert torch.equal(run(*[2 * each for each in given])[0], call(2 * given[0])[0])
    # The last layer's factor is after the last section boundary.
    assert (len(recording.sections), compiler.num_compiled) == (6, 3)


def test_equal_numbers_of_different_types_are_compiled_separately() -> None:
    ints = torch.arange(3)

    def scaled(factor: Any) -> Callable[[Tensor], Sequence[Tensor]]:
        return lambda x: [x * factor]

    compiler = inductor.SectionCompiler(as_it_is)
    with torch.inference_mode():
        for factor, dtype in ((1, torch.int64), (1.0, torch.float32)):
            recording, _ = record(scaled(factor), [ints])
            assert compiler.compile(recording, [ints])(ints)[0].dtype == dtype
    assert compiler.num_compiled == 2
