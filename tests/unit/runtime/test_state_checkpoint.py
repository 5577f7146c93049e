"""States of recurrent layers are set back after rejected drafts, at the cost of a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import pytest
import torch
from torch import Tensor

from skipopt.draft_config import UNCHANGED
from skipopt.errors import ModelError
from skipopt.masks import SkipMask
from skipopt.measurement.timed_rounds import (
    PLAIN_ROUND,
    UNTIMED_ROUND,
    DraftSpec,
    chain_drafter,
    time_rounds,
)
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from tools.tiny_models import tiny_model

TEXT = [(7 * i * i + 3) % 96 for i in range(40)]
CLOSE = 1e-4


@pytest.fixture(scope="module", params=["qwen3_next", "lfm2", "falcon_h1", "mamba"])
def target(request: pytest.FixtureRequest) -> Target:
    return make_target(tiny_model(request.param), None, runtime="eager")


@pytest.fixture(scope="module")
def expected(target: Target) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = target.model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0]
    return logits


@contextmanager
def counted_rows(target: Target) -> Iterator[list[int]]:
    """The rows of each forward inside."""
    rows: list[int] = []
    hook = target.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: rows.append(args[0].shape[1])
    )
    try:
        yield rows
    finally:
        hook.remove()


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=CLOSE, rtol=0)


def draft(engine: Engine, tokens: list[int]) -> None:
    start = engine.position
    with engine.draft_mode(SkipMask.of(engine.target.depth, attention=[0], mlp=[1]), UNCHANGED):
        for token in tokens:
            engine.step([token])
    engine.rewind(start)


def filled(target: Target, count: int) -> Engine:
    engine = Engine(target, 64)
    engine.prefill(TEXT[:count])
    return engine


def test_a_draft_leaves_no_trace(target: Target, expected: Tensor) -> None:
    engine = filled(target, 10)
    draft(engine, [1, 2, 3])
    assert close(engine.step(TEXT[10:14]), expected[10:14])


def test_rejected_tokens_leave_no_trace(target: Target, expected: Tensor) -> None:
    engine = filled(target, 10)
    for position in range(10, 34, 2):
        draft(engine, [1, 2, 3])
        wrong = [TEXT[position], TEXT[position + 1], 90, 91]
        assert close(engine.step(wrong)[:2], expected[position : position + 2])
        engine.commit(position, range(2))


def test_at_most_a_draft_and_one_token_are_read_again(target: Target) -> None:
    engine, gamma = filled(target, 10), 3
    with counted_rows(target) as rows:
        for position in range(10, 34, gamma):
            engine.step([*TEXT[position : position + gamma], 90])
            engine.commit(position, range(gamma))
    assert rows[0] == 1 + gamma
    assert max(rows) == gamma + 1 + gamma


def test_nothing_is_read_again_when_nothing_was_rejected(target: Target) -> None:
    engine = filled(target, 10)
    with counted_rows(target) as rows:
        for position in range(10, 22, 3):
            engine.step(TEXT[position : position + 3])
            engine.commit(position, range(3))
        for token in TEXT[22:26]:
            engine.step([token])
    assert rows == [3] * 4 + [1] * 4


def test_a_text_can_be_taken_back_to_any_position(target: Target, expected: Tensor) -> None:
    engine = filled(target, 30)
    engine.step(TEXT[30:33])
    for position in (31, 20, 5, 0, 0):
        engine.rewind(position)
        found = engine.step(TEXT[position : position + 4])
        assert close(found, expected[position : position + 4]), position


def test_a_second_text_in_the_same_cache_knows_nothing_of_the_first(
    target: Target, expected: Tensor
) -> None:
    engine = filled(target, 30)
    draft(engine, [1])
    engine.rewind(0)
    engine.prefill(TEXT[:1])
    assert close(engine.step(TEXT[1:3]), expected[1:3])


def test_a_failed_forward_leaves_no_trace(target: Target, expected: Tensor) -> None:
    engine = filled(target, 10)
    engine.step([TEXT[10], TEXT[11], 90])
    engine.commit(10, range(2))
    last = target.layers[-1].block.module
    hook = last.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="on purpose"):
        engine.step(TEXT[12:15])
    hook.remove()
    assert close(engine.step(TEXT[12:15]), expected[12:15])


def fail(*args: object) -> None:
    raise ValueError("on purpose")


def test_a_tree_is_refused(target: Target) -> None:
    engine = filled(target, 10)
    assert not engine.takes_trees
    with pytest.raises(ModelError, match="states of a text"):
        engine.step_tree([1, 2], [1, 1], torch.eye(2, dtype=torch.bool))


def test_captured_steps_are_told_to_be_impossible() -> None:
    notices: list[str] = []
    target = make_target(tiny_model("lfm2"), None, runtime="captured", on_notice=notices.append)
    Engine(target, 16).step(TEXT[:3])
    assert target.runtime.step_caches.unsupported_reason is not None
    assert any("states" in notice for notice in notices)


def test_a_plain_round_is_timed_without_tokens_that_are_read_again(target: Target) -> None:
    mask = SkipMask.of(target.depth, attention=range(target.depth), mlp=range(target.depth))
    specs = [DraftSpec(3, mask), UNTIMED_ROUND, PLAIN_ROUND]
    make = partial(chain_drafter, target, UNCHANGED)
    with counted_rows(target) as rows:
        timed = list(time_rounds(make, Engine(target, 64), TEXT[:10], specs, perf_counter))
    assert [spec for spec, _ in timed] == [specs[0], PLAIN_ROUND]
    assert rows[-2] > 1
    assert rows[-1] == 1
