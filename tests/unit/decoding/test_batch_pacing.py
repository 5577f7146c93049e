"""How far a batch drafts, and when it pauses, from costs that are known here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from skipopt.decoding.batch_pacing import BatchPacing
from skipopt.rounds import Round

MAX_ROWS = 64
Cost = Callable[[int], float]


def drafted(length: int, accepted: int) -> Round:
    tokens = tuple(range(length))
    return Round(tokens, accepted, tokens[: accepted + 1], draft_forwards=length)


def decode(
    pacing: BatchPacing, texts: int, accepted: float, verify: Cost, rounds: int = 120
) -> list[int]:
    """The length of the drafts of each round; of each draft that share is accepted."""
    depths: list[int] = []
    for _ in range(rounds):
        depth = pacing.depth(texts, gamma=4)
        made = [drafted(depth, round(accepted * depth)) for _ in range(texts)]
        pacing.observe(made, 0.1 * depth * verify(texts), verify(texts * (depth + 1)))
        depths.append(depth)
    return depths


def memory_bound(rows: int) -> float:
    return 1.0 + 0.02 * rows


def arithmetic_bound(rows: int) -> float:
    return 0.5 * rows


@pytest.mark.parametrize("texts", [1, 4, 8])
def test_drafts_that_pay_go_on(texts: int) -> None:
    pacing = BatchPacing(MAX_ROWS, texts)
    depths = decode(pacing, texts, 1.0, memory_bound)
    assert pacing.pauses == 0
    assert depths[-20:].count(4) >= 18


@pytest.mark.parametrize("texts", [2, 8])
def test_drafting_pauses_where_rows_cost_as_much_as_tokens(texts: int) -> None:
    pacing = BatchPacing(MAX_ROWS, texts)
    depths = decode(pacing, texts, 0.5, arithmetic_bound)
    assert pacing.pauses > 0
    assert depths.count(0) > len(depths) / 2


def test_a_large_batch_pauses_early() -> None:
    """Two rounds of eight texts tell as much as many of one."""
    depths = decode(BatchPacing(MAX_ROWS, 8), 8, 0.5, arithmetic_bound, rounds=12)
    assert sum(depth > 0 for depth in depths) <= 3


def test_drafting_pauses_where_all_is_rejected() -> None:
    pacing = BatchPacing(MAX_ROWS, 4)
    depths = decode(pacing, 4, 0.0, memory_bound)
    assert pacing.pauses > 0
    assert depths.count(0) > len(depths) / 2


def test_a_pause_is_shorter_when_texts_have_left() -> None:
    pacing = BatchPacing(MAX_ROWS, 8)
    decode(pacing, 8, 0.0, arithmetic_bound, rounds=300)
    assert any(decode(pacing, 2, 1.0, memory_bound, rounds=40))


@pytest.mark.parametrize(("texts", "most"), [(16, 3), (32, 1), (40, 0)])
def test_all_rows_fit_into_a_forward(texts: int, most: int) -> None:
    depths = decode(BatchPacing(MAX_ROWS, texts), texts, 1.0, memory_bound)
    assert max(depths) == most


def test_a_forward_over_the_most_rows_is_estimated_from_measured_ones() -> None:
    pacing = BatchPacing(MAX_ROWS, 4)
    decode(pacing, 4, 1.0, memory_bound)
    assert pacing.verify(20) == pytest.approx(memory_bound(20), rel=0.1)
