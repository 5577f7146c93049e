"""Captured steps give the results of the model's own modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.architectures import FORMS, build
from support.native import needs_native
from support.step_cache import PROMPT, near, targets
from support.tiny import tiny_llama, tiny_target
from torch import Tensor

from skipopt.decoding.api import generate
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.runtime import cuda_graph, step_cache
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.runtime.step_cache import (
    StepCache,
)
from skipopt.runtime.tracing import record


def both(layers: int = 3) -> tuple[Engine, Engine]:
    engines = [Engine(target, 64) for target in targets(layers)]
    for engine in engines:
        engine.prefill(PROMPT)
    return engines[0], engines[1]


def rewind_all(engines: Sequence[Engine], tokens: int) -> None:
    """Rewind, as after a draft, whose skipped layers wrote no keys and values."""
    for engine in engines:
        engine.rewind(engine.position - tokens)


def count(engine: Engine) -> int:
    return engine.target.runtime.step_caches.num_captured


def test_linear_layers_of_one_input_are_fused_and_shared_between_steps(packed_wins: None) -> None:
    graphs, eager = both()
    for tokens in ([3], [4, 5], [6]):
        assert near(graphs.step(tokens), eager.step(tokens))
    steps = graphs.step_cache
    assert steps is not None
    # Queries, keys and values; gate and up; once per layer for all numbers of rows.
    assert sorted(steps.fused_group_sizes) == [2, 2, 2, 3, 3, 3]
    own = 3 * 4 * 32 * (32 + 16 + 16 + 48 + 48)
    assert graphs.target.runtime.step_caches.extra_bytes == own


@pytest.mark.parametrize("rows", range(1, 12))
def test_chains_equal_eager_steps(rows: int) -> None:
    graphs, eager = both()
    for start in range(0, 3 * rows, rows):
        tokens = [(start + i) % 60 for i in range(rows)]
        assert near(graphs.step(tokens), eager.step(tokens))
    assert graphs.position == eager.position
    assert count(graphs) == 1


def test_trees_equal_eager_steps_after_commit_and_rewind() -> None:
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


def test_trees_of_embeddings_equal_eager_steps() -> None:
    graphs, eager = both()
    first = torch.ones(1, 1, dtype=torch.bool)
    second = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    results = []
    for engine in (graphs, eager):
        engine.step_tree([3], [0], first)
        results.append(engine.step_tree(engine.embed([6, 7, 8]), [1, 1, 1], second))
    assert near(*results)


def test_each_mask_has_its_own_steps() -> None:
    graphs, eager = both()
    masks = [SkipMask.of(3, [1], [2]), SkipMask.of(3, [0, 1, 2], []), SkipMask.of(3, [2], [2])]
    for mask in (*masks, *masks):
        with skipping(graphs.target, mask), skipping(eager.target, mask):
            assert near(graphs.step([4]), eager.step([4]))
        rewind_all((graphs, eager), 1)
        assert near(graphs.step([6]), eager.step([6]))
    assert count(graphs) == 4


def test_nested_masks_and_unnamed_patches_equal_eager_steps() -> None:
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


def test_hidden_states_and_greedy_steps_equal_eager_ones() -> None:
    graphs, eager = both()
    for engine in (graphs, eager):
        engine.keeps_hidden = True
        engine.step([4, 5, 6])
    assert graphs.hidden is not None
    assert eager.hidden is not None
    assert near(graphs.hidden, eager.hidden)
    (token, sure, second, margin), (expected, likely, other, distance) = (
        engine.greedy_step([3]) for engine in (graphs, eager)
    )
    assert torch.equal(second, other)
    assert near(margin, distance)
    assert torch.equal(token, expected)
    assert near(sure, likely)
    following = graphs.greedy_step(token)[0]
    assert torch.equal(following, eager.greedy_step(expected)[0])


@pytest.mark.parametrize("name", FORMS)
def test_every_architecture_is_captured_or_has_a_reason(name: str) -> None:
    """With numbers of rows between the captured ones, and past the end of a sliding window."""
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
        rewind_all(engines, 1)
        assert near(*(engine.step(list(range(2, 11))) for engine in engines))
    assert graphs.runtime.step_caches.unsupported_reason or count(engines[0]) == 2
    if name in ("llama", "gemma3", "gpt2"):
        assert graphs.runtime.name == "captured"


class FakeGraph:
    """Replays by calling again with copies of the inputs that were captured."""

    def __init__(
        self, call: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], pool: object
    ) -> None:
        self.inputs = [tensor.clone() for tensor in given]
        self.call = call
        record(call, self.inputs)  # raises where the host would wait for a value

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        for own, new in zip(self.inputs, inputs, strict=True):
            assert (own.shape, own.dtype) == (new.shape, new.dtype)
            own.copy_(new)
        return self.call(*self.inputs)


def test_a_step_captured_by_a_gpu_has_fixed_shapes_and_no_synchronization(
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
        rewind_all((graphs, eager), 1)
        tokens = list(range(length))
        assert near(graphs.step(tokens), eager.step(tokens))
    assert graphs.target.runtime.name == "captured"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AttributeError("no such function"), "AttributeError: no such function"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("no compiler"), "no compiler"),
        (NotImplementedError(), "NotImplementedError"),
    ],
)
def test_whatever_fails_in_a_capture_leaves_the_step_to_the_modules(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object) -> object:
        raise error

    monkeypatch.setattr(step_cache, "program", fail)
    graphs, eager = both()
    assert near(graphs.step([4]), eager.step([4]))
    runtime = graphs.target.runtime
    assert runtime.step_caches.unsupported_reason == reason
    assert runtime.name != "captured"
    assert near(graphs.step([5, 6]), eager.step([5, 6]))


@pytest.mark.parametrize(
    ("runtime", "where"),
    [
        ("captured", "program"),
        ("captured", "check_replay"),
        pytest.param("native", "translation", marks=needs_native),
        pytest.param("native", "compare", marks=needs_native),
    ],
)
@pytest.mark.parametrize(
    "error", [AttributeError("a"), ValueError("v"), KeyError("k"), AssertionError("x")]
)
def test_a_later_capture_that_fails_leaves_the_text_as_it_is(
    monkeypatch: pytest.MonkeyPatch, runtime: str, where: str, error: Exception
) -> None:
    real, done = getattr(step_cache, where), 0

    def fail_later(*given: Any, **more: Any) -> Any:
        nonlocal done
        done += 1
        if done > 1:
            raise error
        return real(*given, **more)

    monkeypatch.setattr(step_cache, where, fail_later)
    notices: list[str] = []
    target = make_target(tiny_llama(3), None, runtime=runtime, on_notice=notices.append)

    def text(target: Any, method: str) -> list[int]:
        tokens = generate(target, PROMPT, method=method, max_new_tokens=20)
        return [token.id for token in tokens]

    methods = ("plain", "layer-skip:exit_layer=2:gamma=3", "rsd-s:exit_layer=2")
    expected = text(tiny_target(tiny_llama(3)), "plain")
    assert [text(target, method) for method in methods] == [expected] * 3
    assert done > 1
    assert len(notices) in (1, 2)  # native steps fail first, and then those of fx graphs
    assert all(type(error).__name__ in notice for notice in notices)


def test_captured_steps_do_not_need_the_deprecated_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("trace", "script", "freeze", "trace_module"):
        monkeypatch.delattr(torch.jit, name)
    graphs, eager = both()
    assert near(graphs.step([4, 5]), eager.step([4, 5]))
    assert graphs.target.runtime.name == "captured"
