"""Rejection over siblings, chains and trees emits exactly the target's distribution.

Distributions are computed by enumerating every draft and every outcome of the coins, so that
nothing is sampled and probabilities are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.rejection import (
    DRAWN,
    EXACT,
    INDEPENDENT,
    SECOND,
    WITHOUT,
    Fixed,
    Script,
    bias,
    distance,
    draws,
    every_tree,
    joint_law,
    judged,
    law,
    law_distance,
    outcomes,
    plain_law,
    random_cases,
    random_pairs,
    random_rows,
    row,
    rows,
    support,
    with_full_support,
)
from torch import Tensor

from skipopt.drafting.tree import DraftKind, DraftTree
from skipopt.verification.base import VerifyResult
from skipopt.verification.rejection import accept_first, reject, residual, without

FIRST = ((0.3, 0.4, 0.3), (0.6, 0.3, 0.1))


THIRD = ((0.618, 0.354, 0.028), (0.373, 0.58, 0.047))


def acceptance(q: Tensor, p: Tensor, count: int, kind: DraftKind) -> float:
    return law(accept_first, q, p, count, kind)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most"), [(INDEPENDENT, 3), (WITHOUT, 4)])
def test_siblings_emit_exactly_q(kind: DraftKind, most: int) -> None:
    for q, p, count in random_cases(1500, most):
        assert bias(accept_first, q, p, count, kind) < EXACT


def test_one_sampled_draft_emits_exactly_q() -> None:
    for q, p in random_pairs(1200, largest=8):
        assert bias(accept_first, q, p, 1, INDEPENDENT) < EXACT


def test_point_siblings_emit_exactly_q() -> None:
    """Repeated and impossible siblings included."""
    generator = torch.Generator().manual_seed(1)
    for q, _, count in random_cases(1000, most=4):
        tokens = torch.randint(len(q), (count,), generator=generator).tolist()
        emitted, accepted = judged(accept_first, q, None, tokens, "point")
        assert distance(emitted, q) < EXACT
        assert accepted == pytest.approx(float(q[sorted(set(tokens))].sum()), abs=EXACT)


@pytest.mark.parametrize(
    ("pair", "count", "independent", "without_replacement"),
    [
        (FIRST, 1, 0.7, 0.7),
        (FIRST, 2, 0.82, 7 / 8),
        (FIRST, 3, 0.848, 1),
        (SECOND, 1, 0.6, 0.6),
        (SECOND, 2, 0.72, 107 / 140),
        (SECOND, 3, 0.768, 14117 / 16800),
        (SECOND, 4, 0.7912, 1),
        (THIRD, 2, 169277 / 200000, 192754417 / 200130000),
    ],
)
def test_acceptance_of_known_rows(
    pair: tuple[tuple[float, ...], ...],
    count: int,
    independent: float,
    without_replacement: float,
) -> None:
    q, p = rows(pair)
    assert acceptance(q, p, count, INDEPENDENT) == pytest.approx(independent, abs=EXACT)
    assert acceptance(q, p, count, WITHOUT) == pytest.approx(without_replacement, abs=EXACT)


def test_known_rows_after_the_first_sibling_was_rejected() -> None:
    q, p = rows(FIRST)
    assert distance(residual(q, p, 0), row(0, 1 / 3, 2 / 3)) < EXACT
    assert distance(without(p, 0), row(0, 3 / 4, 1 / 4)) < EXACT
    script = Script([False, True])
    assert accept_first(q, p, [0, 1], WITHOUT, script)[0] == 1  # type: ignore[arg-type]
    assert [coin.share for coin in script.coins] == pytest.approx([1 / 2, 4 / 9])


def test_acceptance_of_one_draft_is_the_overlap_of_q_and_p() -> None:
    for q, p in random_pairs(300):
        overlap = float(torch.minimum(q, p).sum())
        for kind in DRAWN:
            assert acceptance(q, p, 1, kind) == pytest.approx(overlap, abs=EXACT)


def test_acceptance_of_independent_siblings_follows_the_residuals() -> None:
    for q, p, count in random_cases(100):
        missed, left = 1.0, q
        for _ in range(count):
            missed *= 1 - float(torch.minimum(left, p).sum())
            left = residual(left, p, 0)
        assert acceptance(q, p, count, INDEPENDENT) == pytest.approx(1 - missed, abs=1e-9)


def test_without_replacement_never_accepts_less() -> None:
    gains = [
        acceptance(q, p, count, WITHOUT) - acceptance(q, p, count, INDEPENDENT)
        for q, p, count in random_cases(300, seed=1)
        if count > 1
    ]
    assert min(gains) > -EXACT
    assert sum(gain > 0.01 for gain in gains) > len(gains) / 4


def test_more_siblings_never_accept_less() -> None:
    for q, p in random_pairs(60, smallest=3, seed=2):
        for kind in DRAWN:
            shares = [acceptance(q, p, k, kind) for k in range(1, min(3, len(support(p))) + 1)]
            assert all(b > a - EXACT for a, b in pairwise(shares))


def test_drafting_every_possible_token_is_always_accepted() -> None:
    """All tokens with probability under q are drafted."""
    for q, p in random_pairs(100, largest=4, seed=3):
        q = q * (p > 0)
        if float(q.sum()) > 0:
            found = acceptance(q / q.sum(), p, len(support(p)), WITHOUT)
            assert found == pytest.approx(1.0, abs=EXACT)


def test_equal_rows_accept_the_first_sibling() -> None:
    nearly_one: Any = Fixed(1.0 - 2.0**-53)
    for q, _, count in random_cases(100):
        for kind in DRAWN:
            for tokens, _ in draws(q, count, kind):
                chosen, left = accept_first(q, q.clone(), tokens, kind, nearly_one)
                assert chosen == 0
                assert torch.equal(left, q), "no residual was needed"


@pytest.mark.parametrize("kind", DRAWN)
def test_disjoint_supports_are_never_accepted_and_still_emit_q(kind: DraftKind) -> None:
    q, p = row(0.5, 0.3, 0.2, 0, 0, 0), row(0, 0, 0, 0.2, 0.2, 0.6)
    for count in (1, 2, 3):
        assert acceptance(q, p, count, kind) == 0.0
        assert bias(accept_first, q, p, count, kind) < EXACT


@pytest.mark.parametrize("kind", DRAWN)
def test_one_hot_target_gives_its_token_whatever_is_drafted(kind: DraftKind) -> None:
    q = row(0, 0, 1, 0)
    for _, p in random_pairs(50, 4, 4):
        emitted, _ = law(accept_first, q, p, min(2, len(support(p))), kind)
        assert support(emitted) == [2]


def test_tokens_of_probability_zero_are_not_accepted_by_u_zero() -> None:
    zero: Any = Fixed(0.0)
    for q, p, count in random_cases(200, seed=4):
        for kind in DRAWN:
            for tokens, _ in draws(p, count, kind):
                chosen, left = accept_first(q, p, tokens, kind, zero)
                assert float(q[tokens[chosen] if chosen is not None else zero.draw(left)]) > 0
    assert accept_first(row(0, 1), None, [0, 0], "point", zero)[0] is None


def test_tokens_of_probability_zero_are_never_emitted() -> None:
    for q, p, count in random_cases(200, seed=5):
        for kind in DRAWN:
            assert set(support(law(accept_first, q, p, count, kind)[0])) <= set(support(q))


def test_residuals_of_float32_rows_lose_nothing() -> None:
    """Rows that float32 represents exactly are judged exactly."""
    for q, p in random_pairs(60, smallest=4, seed=6):
        q, p = in_parts_of_1024(q), in_parts_of_1024(p)
        for kind in DRAWN:
            assert bias(_in_float32, q, p, min(3, len(support(p))), kind) < EXACT


def in_parts_of_1024(row: Tensor) -> Tensor:
    parts = (row * 1024).floor()
    parts[int(row.argmax())] += 1024 - parts.sum()
    return parts / 1024


def _in_float32(
    q: Tensor, p: Tensor | None, tokens: list[int], kind: DraftKind, sampler: Any
) -> tuple[int | None, Tensor]:
    assert p is not None
    return accept_first(q.float(), p.float(), tokens, kind, sampler)


def test_residual_of_known_rows() -> None:
    q = row(*FIRST[0])
    assert distance(residual(q, None, 1), row(0.5, 0, 0.5)) < EXACT
    residual(q, row(*FIRST[1]), 0)
    assert torch.equal(q, row(*FIRST[0])), "the target's own row was written to"


def test_residual_of_equal_rows_is_q_itself() -> None:
    q = row(*FIRST[0])
    assert torch.equal(residual(q, q.clone(), 0), q)
    assert torch.equal(residual(row(0, 1), None, 1), row(0, 1))


@pytest.mark.parametrize(
    ("kind", "size", "shape"),
    [
        (INDEPENDENT, 4, (1, 1, 1)),
        (INDEPENDENT, 3, (2, 1)),
        (WITHOUT, 3, (2, 1)),
        (WITHOUT, 3, (2, 2)),
        (WITHOUT, 4, (3, 1)),
        (WITHOUT, 4, (1, 2)),
    ],
)
def test_trees_emit_exactly_the_joint_distribution(
    kind: DraftKind, size: int, shape: tuple[int, ...]
) -> None:
    """All tokens of a round, the bonus token included."""
    length = len(shape) + 1
    for seed in range(3):
        q, p = random_rows(size, seed), random_rows(size, 100 + seed)
        found = joint_law(reject, q, every_tree(p, shape, kind), length)
        assert law_distance(found, plain_law(q, length)) < EXACT


def test_trees_of_points_emit_exactly_the_joint_distribution() -> None:
    q = random_rows(4, 0)
    trees = [
        DraftTree((0, 1, 2, 3, 0, 0), (-1, -1, 0, 0, 1, 2)),
        DraftTree((3, 3, 1, 2), (-1, -1, 0, 1)),
        DraftTree((2, 1, 0), (-1, 0, 1)),
    ]
    for tree in trees:
        found = joint_law(reject, q, iter([(tree, 1.0)]), 4)
        assert law_distance(found, plain_law(q, 4)) < EXACT


def test_trees_with_leaves_at_every_level_emit_exactly_the_joint_distribution() -> None:
    """Only the second sibling has children, whatever its token is."""

    def trees() -> Iterator[tuple[DraftTree, float]]:
        for (a, b), chance in draws(p(()), 2, WITHOUT):
            for (c, d), below in draws(p((b,)), 2, WITHOUT):
                rows = {-1: p(()), 1: p((b,))}
                yield DraftTree((a, b, c, d), (-1, -1, 1, 1), WITHOUT, rows), chance * below

    q, p = random_rows(4, 7), with_full_support(random_rows(4, 8))
    assert law_distance(joint_law(reject, q, trees(), 3), plain_law(q, 3)) < EXACT


def test_path_leads_down_the_accepted_children() -> None:
    q = torch.eye(4, dtype=torch.float64)[[1, 0, 2, 0, 0, 3]]
    tree = DraftTree((0, 1, 3, 2, 1), (-1, -1, 0, 1, 3))
    always: Any = Fixed(0.0)
    assert reject(tree, q, always) == VerifyResult((1, 3), 0)
    assert reject(DraftTree(), q[:1], always) == VerifyResult((), 1)


def test_nothing_drafted_draws_from_the_only_row() -> None:
    q = row(*FIRST[0])
    assert outcomes(reject, DraftTree(), q[None]) == pytest.approx(
        {(0,): 0.3, (1,): 0.4, (2,): 0.3}
    )
