"""Captured steps against the model's own modules, and what is refused."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.architectures import SKIPPABLE, build
from support.tiny import tiny_llama, tiny_target
from torch import Tensor, nn

from skipopt.errors import PromptError
from skipopt.kernels.packed_linear import choose_kernels
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.runtime import cuda_graph, step_cache
from skipopt.runtime.engine import Engine
from skipopt.runtime.linear_fusion import LINEAR_OPS, FusedLinear, LinearFuser
from skipopt.runtime.load import make_target
from skipopt.runtime.step_cache import (
    CAPTURE_ROWS,
    StepCache,
    bucket_capacity,
    bucket_rows,
    slots_for,
)
from skipopt.runtime.torchscript import Compiler
from skipopt.runtime.tracing import CannotCaptureError, record

PROMPT = [5, 9, 2, 7, 11, 3]
NEAR = 2e-5


def targets(layers: int = 3) -> tuple[Target, Target]:
    """The same weights twice: captured at once, and never."""
    made = [tiny_target(tiny_llama(layers), runtime=runtime) for runtime in ("captured", "eager")]
    return made[0], made[1]


def both(layers: int = 3) -> tuple[Engine, Engine]:
    engines = [Engine(target, 64) for target in targets(layers)]
    for engine in engines:
        engine.prefill(PROMPT)
    return engines[0], engines[1]


def near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < NEAR)


def forget(engines: Sequence[Engine], tokens: int) -> None:
    """As after a draft: what a skipped layer did not write is not to be read."""
    for engine in engines:
        engine.rewind(engine.position - tokens)


def count(engine: Engine) -> int:
    return engine.target.runtime.step_caches.num_captured


# What can be recorded


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + float(x.sum()),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x + x.argmax().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
    ],
)
def test_what_depends_on_values_is_refused(call: Callable[[Tensor], Tensor]) -> None:
    with torch.inference_mode(), pytest.raises(CannotCaptureError):
        record(lambda x: [call(x)], [torch.randn(4)])


def test_a_program_does_the_same_to_other_inputs() -> None:
    state = torch.zeros(3)

    def call(x: Tensor, y: Tensor) -> Sequence[Tensor]:
        state.add_(x)
        return [x.softmax(-1) @ y, state * 2, x]

    first, second = [(torch.randn(3), torch.randn(3, 2)) for _ in range(2)]
    with torch.inference_mode():
        recording, _ = record(call, first)
        program = Compiler().compile(recording, first)
        before = state.clone()
        found = program(*second)
        state.copy_(before)
        expected = call(*second)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("other", [1.5, 2])
def test_equal_sections_are_compiled_once_and_others_apart(other: float) -> None:
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    factors = [1, 1, 1, 1, other]

    def call(x: Tensor) -> Sequence[Tensor]:
        for layer, factor in zip(layers, factors, strict=True):
            x = layer(x) * factor
        return [x]

    compiler, given = Compiler(), [torch.randn(2, 4)]
    with torch.inference_mode():
        recording, expected = record(call, given, list(layers))
        program = compiler.compile(recording, given)
        assert torch.equal(program(*given)[0], expected[0])
    # The last layer's factor falls behind the last border.
    assert (len(recording.sections), compiler.num_compiled) == (6, 3)


def test_numbers_that_are_equal_but_not_alike_are_told_apart() -> None:
    ints = torch.arange(3)

    def scaled(factor: Any) -> Callable[[Tensor], Sequence[Tensor]]:
        return lambda x: [x * factor]

    compiler = Compiler()
    with torch.inference_mode():
        for factor, dtype in ((1, torch.int64), (1.0, torch.float32)):
            recording, _ = record(scaled(factor), [ints])
            assert compiler.compile(recording, [ints])(ints)[0].dtype == dtype


def test_layers_are_compiled_once() -> None:
    engine = Engine(targets(layers=6)[0], 64)
    engine.prefill(PROMPT)
    engine.step([1])
    assert engine.step_cache is not None
    assert engine.step_cache.num_sections == 3  # before the layers, a layer, behind them


def test_rows_and_reads_grow_by_half_at_most() -> None:
    lengths = sorted({bucket_capacity(end) for end in range(1, 5000)})
    assert lengths[:5] == [128, 192, 256, 384, 512]
    assert all(bucket_capacity(end) >= end for end in range(1, 5000))
    assert all(b <= 1.5 * a for a, b in pairwise(lengths))
    assert [bucket_rows(n) for n in (1, 8, 9, 64, 65)] == [1, 8, 10, 64, None]


# What is joined


def test_products_of_one_input_are_joined_and_shared_between_steps(packed_wins: None) -> None:
    graphs, eager = both()
    for tokens in ([3], [4, 5], [6]):
        assert near(graphs.step(tokens), eager.step(tokens))
    steps = graphs.step_cache
    assert steps is not None
    # Queries, keys and values; gate and up; once in a layer, whatever the number of rows.
    assert sorted(steps.fused_group_sizes) == [2, 2, 2, 3, 3, 3]
    own = 3 * 4 * 32 * (32 + 16 + 16 + 48 + 48)
    assert graphs.target.runtime.step_caches.extra_bytes == own


def products(bias: bool = False, rewrite: bool = False, wide: bool = False) -> int:
    """How many products of two on one input are left."""
    size = 1100 if wide else 8
    layers = [nn.Linear(size, size, bias=bias and not i) for i in range(2)]
    kernels = choose_kernels(nn.ModuleList(layers))

    def call(x: Tensor) -> Sequence[Tensor]:
        x = x * 2
        with kernels.patch:
            first = layers[0](x)
            if rewrite:
                x.add_(1)
            return [first, layers[1](x)]

    given = [torch.randn(2, size)]
    with torch.inference_mode():
        recording, expected = record(call, given)
        found = LinearFuser(kernels.unpacked_weights).fuse(recording)
        results = Compiler().compile(found, given)(*given)
    assert all(near(a, b) for a, b in zip(results, expected, strict=True))
    kinds = [operation.function for operation in found.sections[0]]
    return sum(kind in LINEAR_OPS or isinstance(kind, FusedLinear) for kind in kinds)


def test_what_cannot_be_joined_is_left(packed_wins: None) -> None:
    assert products() == 1
    assert products(bias=True) == 2
    assert products(rewrite=True) == 2
    assert products(wide=True) == 2


# Against the model's own modules


@pytest.mark.parametrize("rows", range(1, 12))
def test_chains(rows: int) -> None:
    graphs, eager = both()
    for start in range(0, 3 * rows, rows):
        tokens = [(start + i) % 60 for i in range(rows)]
        assert near(graphs.step(tokens), eager.step(tokens))
    assert graphs.position == eager.position
    assert count(graphs) == 1


def test_trees_rewound_kept_and_gone_on_from() -> None:
    graphs, eager = both()
    attends = torch.tensor(
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool
    )
    for engine in (graphs, eager):
        engine.step([4])
    start = graphs.position
    found, expected = (e.step_tree([8, 9, 10, 12], [0, 1, 1, 2], attends) for e in (graphs, eager))
    assert near(found, expected)
    for engine in (graphs, eager):
        engine.commit(start, [0, 2, 3])
    assert near(graphs.step([1, 2]), eager.step([1, 2]))
    for engine in (graphs, eager):
        engine.rewind(start)
    assert near(graphs.step([17]), eager.step([17]))


def test_trees_of_embeddings_with_a_window_of_earlier_rows() -> None:
    graphs, eager = both()
    first = torch.ones(1, 1, dtype=torch.bool)
    second = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    results = []
    for engine in (graphs, eager):
        engine.step_tree([3], [0], first)
        results.append(engine.step_tree(engine.embed([6, 7, 8]), [1, 1, 1], second))
    assert near(*results)


def test_masks_each_have_their_own_steps() -> None:
    graphs, eager = both()
    masks = [SkipMask.of(3, [1], [2]), SkipMask.of(3, [0, 1, 2], []), SkipMask.of(3, [2], [2])]
    for mask in (*masks, *masks):
        with skipping(graphs.target, mask), skipping(eager.target, mask):
            assert near(graphs.step([4]), eager.step([4]))
        forget((graphs, eager), 1)
        assert near(graphs.step([6]), eager.step([6]))
    assert count(graphs) == 4


def test_nested_masks_and_patches_without_a_name() -> None:
    graphs, eager = both()
    outer, inner = SkipMask.of(3, [0], []), SkipMask.of(3, [], [2])
    for engine in (graphs, eager):
        target = engine.target
        engine.patches = [skipping(target, outer), skipping(target, inner)]  # type: ignore[attr-defined]
    a, b = graphs.patches, eager.patches  # type: ignore[attr-defined]
    with a[0], a[1], b[0], b[1]:
        assert near(graphs.step([4]), eager.step([4]))
    captured_so_far = count(graphs)
    doubled = []
    for engine in (graphs, eager):
        target = engine.target
        mlp = target.layers[1].mlp[0].module
        change = (mlp, lambda x, mlp=mlp: 2 * type(mlp).forward(mlp, x))
        doubled.append(target.runtime.patch([change]))
    plain = eager.step([4])
    for engine in (graphs, eager):
        engine.rewind(engine.position - (engine is eager))
    with doubled[0], doubled[1]:
        found, expected = graphs.step([4]), eager.step([4])
    assert near(found, expected)
    assert not near(found, plain)
    assert count(graphs) == captured_so_far


def test_hidden_states_and_guesses() -> None:
    graphs, eager = both()
    for engine in (graphs, eager):
        engine.keeps_hidden = True
        engine.step([4, 5, 6])
    assert graphs.hidden is not None
    assert eager.hidden is not None
    assert near(graphs.hidden, eager.hidden)
    (token, sure), (expected, likely) = graphs.greedy_step([3]), eager.greedy_step([3])
    assert torch.equal(token, expected)
    assert near(sure, likely)
    following = graphs.greedy_step(token)[0]
    assert torch.equal(following, eager.greedy_step(expected)[0])


@pytest.mark.parametrize("name", SKIPPABLE)
def test_every_architecture_is_replayed_or_says_why_not(name: str) -> None:
    """With rows that do not fit a captured number, and the end of a sliding window passed."""
    graphs, eager = (
        tiny_target(build(name), runtime=runtime) for runtime in ("captured", "eager")
    )
    mask = SkipMask.of(graphs.depth, [1], [0])
    engines = [Engine(target, 48) for target in (graphs, eager)]
    for engine in engines:
        engine.prefill(PROMPT)
    for _ in range(3):
        with skipping(graphs, mask), skipping(eager, mask):
            assert near(*(engine.step([4]) for engine in engines))
        forget(engines, 1)
        assert near(*(engine.step(list(range(2, 11))) for engine in engines))
    assert graphs.runtime.step_caches.unsupported_reason or count(engines[0]) == 2
    if name in ("llama", "mistral", "qwen2", "gemma2", "gpt2"):
        assert graphs.runtime.name == "captured"


# Fallbacks


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


def test_why_steps_are_not_captured_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_steps_run_eagerly_until_capturing_is_worth_it() -> None:
    target = tiny_target(tiny_llama(2), runtime="auto")
    engine = Engine(target, 40)
    for _ in range(target.runtime.step_caches.min_uses):
        engine.step([1])
        engine.rewind(0)
    assert target.runtime.step_caches.num_captured == 0
    engine.step([1])
    assert target.runtime.step_caches.num_captured == 1
    with target.runtime.capture_immediately():
        engine.step([1, 2])
    assert target.runtime.step_caches.num_captured == 2
    clock = target.runtime.clock_without_capture(lambda: 10.0)
    assert clock() == 10.0 - target.runtime.step_caches.capture_seconds < 10.0


# One cache


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


class FakeGraph:
    """Replays by calling again, with nothing but what stood at its place when it was captured."""

    def __init__(
        self, call: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], pool: object
    ) -> None:
        self.inputs = [tensor.clone() for tensor in given]
        self.call = call
        record(call, self.inputs)  # raises where the host would have to wait for a value

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        for own, new in zip(self.inputs, inputs, strict=True):
            assert (own.shape, own.dtype) == (new.shape, new.dtype)
            own.copy_(new)
        return self.call(*self.inputs)


def test_the_step_that_a_gpu_captures_has_fixed_shapes_and_never_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_graph, "CudaGraph", FakeGraph)
    monkeypatch.setattr(step_cache.torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(StepCache, "_program", StepCache._cuda_graph)
    graphs, eager = both()
    mask = SkipMask.of(3, [1], [1])
    for length in (1, 4, 9, 2):
        with skipping(graphs.target, mask), skipping(eager.target, mask):
            assert torch.equal(graphs.greedy_step([7])[0], eager.greedy_step([7])[0])
        forget((graphs, eager), 1)
        tokens = list(range(length))
        assert near(graphs.step(tokens), eager.step(tokens))
    assert graphs.target.runtime.name == "captured"
