"""Known mistakes of other implementations of rejection, which these tests must catch."""

from __future__ import annotations

from collections.abc import Callable
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
    Judge,
    bias,
    distance,
    draws,
    every_tree,
    joint_law,
    judged,
    law,
    law_distance,
    plain_law,
    random_cases,
    random_rows,
    row,
    rows,
    with_full_support,
)
from torch import Tensor

from skipopt.drafting.tree import DraftKind, DraftTree
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.base import VerifyResult
from skipopt.verification.rejection import Rejection, accept_first, reject, residual, without
from skipopt.verification.target_rows import TargetRows

CPU = torch.device("cpu")


class RecordingSampler(TokenSampler):
    """A real sampler that records the rows it draws from."""

    rows: list[Tensor]

    def draw(self, probabilities: Tensor) -> int:
        self.rows.append(probabilities)
        return super().draw(probabilities)


def bonus_row(rule: Callable[..., VerifyResult], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The row from which the bonus token is drawn, and the correct one."""
    sampler = RecordingSampler(SamplingOptions(0.5, top_k=4, top_p=0.9), CPU, coupled=False)
    sampler.rows = []
    processed = sampler.probabilities(logits)
    draft = DraftTree.chain([int(processed[0].argmax())], [processed[0]])
    assert rule(draft, TargetRows(logits), sampler, 5).path == (0,)
    return sampler.rows[-1].double(), processed[1].double()


def random_logits(count: int = 2) -> Tensor:
    return 2 * torch.randn(count, 12, generator=torch.Generator().manual_seed(3))


def test_bonus_is_drawn_from_processed_probabilities() -> None:
    used, right = bonus_row(Rejection(), random_logits())
    assert distance(used, right) == 0.0
    assert int((used > 0).sum()) <= 4


def test_rejection_needs_a_sampler_with_fresh_draws() -> None:
    assert Rejection().coupled is False
    assert Rejection().name == "rejection"


def test_uniform_draws_are_finer_than_float32() -> None:
    sampler = TokenSampler(SamplingOptions(1.0), CPU, coupled=False)
    steps = [sampler.uniform() * 2**24 % 1 for _ in range(8)]
    assert any(step != 0 for step in steps)
    assert all(0 <= sampler.uniform() < 1 for _ in range(1000))


def variant(
    ratio: Callable[[float, float], float] = lambda q, p: q / p,
    left: Callable[[Tensor, Tensor, int], Tensor] = residual,
    rest: Callable[[Tensor, int], Tensor] = without,
    final: Callable[[Tensor, Tensor], Tensor] = lambda first, now: now,
) -> Judge:
    """`accept_first` with one of its parts replaced."""

    def rule(
        q: Tensor, p: Tensor | None, tokens: list[int], kind: DraftKind, sampler: Any
    ) -> tuple[int | None, Tensor]:
        assert p is not None
        first = q
        for i, token in enumerate(tokens):
            if sampler.uniform() < ratio(float(q[token]), float(p[token])):
                return i, q
            q = left(q, p, token)
            p = rest(p, token) if kind == WITHOUT else p
        return None, final(first, q)

    return rule


def zeroed(p: Tensor, token: int) -> Tensor:
    p = p.clone()
    p[token] = 0.0
    return p


def discards_unlikely(
    q: Tensor, p: Tensor | None, tokens: list[int], kind: DraftKind, sampler: Any
) -> tuple[int | None, Tensor]:
    """A drawn token of low probability is not proposed."""
    assert p is not None
    return accept_first(q, p, [token for token in tokens if p[token] >= 0.2], kind, sampler)


STALE_RESIDUAL = variant(left=lambda q, p, token: q)


NOT_NORMALIZED = variant(rest=zeroed)


FINAL_FROM_Q = variant(final=lambda first, now: first)


def test_variant_without_a_change_is_the_rule() -> None:
    for q, p, count in random_cases(60):
        for kind in DRAWN:
            assert distance(law(variant(), q, p, count, kind)[0], q) < EXACT


@pytest.mark.parametrize(
    ("mutant", "count", "expected"),
    [
        (STALE_RESIDUAL, 2, 0.1768571),
        (NOT_NORMALIZED, 2, 0.0433673),
        (FINAL_FROM_Q, 2, 0.1414286),
        (FINAL_FROM_Q, 1, 0.14),
        (discards_unlikely, 1, 0.06),
    ],
)
def test_wrong_rule_is_biased(mutant: Judge, count: int, expected: float) -> None:
    q, p = rows(SECOND)
    assert bias(mutant, q, p, count, WITHOUT) == pytest.approx(expected, abs=1e-6)
    assert bias(accept_first, q, p, count, WITHOUT) < EXACT


def test_best_tokens_judged_by_their_softmax_are_biased() -> None:
    """As point masses they are exact."""
    q, p = rows(SECOND)
    best = p.topk(2).indices.tolist()
    assert distance(judged(accept_first, q, p, best, WITHOUT)[0], q) == pytest.approx(0.5)
    assert distance(judged(accept_first, q, None, best, "point")[0], q) < EXACT


def test_siblings_drawn_without_replacement_and_judged_as_independent_are_biased() -> None:
    q, p = rows(SECOND)
    emitted = torch.zeros_like(q)
    for tokens, chance in draws(p, 2, WITHOUT):
        emitted += chance * judged(accept_first, q, p, tokens, INDEPENDENT)[0]
    assert distance(emitted, q) > 0.02


def test_siblings_out_of_the_order_they_were_drawn_in_are_biased() -> None:
    def sorted_by_p(
        q: Tensor, p: Tensor | None, tokens: list[int], kind: DraftKind, sampler: Any
    ) -> tuple[int | None, Tensor]:
        assert p is not None
        likeliest = sorted(tokens, key=lambda token: -float(p[token]))
        chosen, left = accept_first(q, p, likeliest, kind, sampler)
        return (None if chosen is None else tokens.index(likeliest[chosen])), left

    q, p = rows(SECOND)
    assert bias(sorted_by_p, q, p, 2, WITHOUT) > 0.02


def test_draft_probabilities_not_normalized_again_are_biased() -> None:
    """The p of the ratio was cut without being normalized again."""
    mutant = variant(
        ratio=lambda q, p: q / (0.6 * p), left=lambda q, p, t: residual(q, 0.6 * p, t)
    )
    assert bias(mutant, *rows(SECOND), 1, INDEPENDENT) > 0.04


def test_residual_from_another_row_is_biased() -> None:
    """The residual at every depth of a chain is taken from the first row."""

    def mutant(draft: DraftTree, target: Tensor, sampler: Any) -> VerifyResult:
        for i, token in enumerate(draft.tokens):
            if not sampler.uniform() < float(target[i, token] / draft.draft_probs[i - 1][token]):
                return VerifyResult(
                    tuple(range(i)),
                    sampler.draw(residual(target[0], draft.draft_probs[-1], token)),
                )
        return VerifyResult(tuple(range(len(draft.tokens))), sampler.draw(target[-1]))

    q, p = random_rows(4, 0), with_full_support(random_rows(4, 1))
    expected = plain_law(q, 3)
    assert law_distance(joint_law(mutant, q, every_tree(p, (1, 1), WITHOUT), 3), expected) > 0.05
    assert law_distance(joint_law(reject, q, every_tree(p, (1, 1), WITHOUT), 3), expected) < EXACT


def test_continuing_with_a_siblings_row_is_biased() -> None:
    """The rows of the first child are used for the accepted one."""

    def mutant(draft: DraftTree, target: Tensor, sampler: Any) -> VerifyResult:
        mixed = target.clone()
        mixed[2] = target[1]
        return reject(draft, mixed, sampler)

    q, p = random_rows(4, 0), with_full_support(random_rows(4, 1))
    found = joint_law(mutant, q, every_tree(p, (2,), WITHOUT), 2)
    assert law_distance(found, plain_law(q, 2)) > 0.03


def test_accepting_u_equal_to_the_ratio_emits_impossible_tokens() -> None:
    def accepts_at_zero(q: Tensor, p: Tensor, token: int, u: float) -> bool:
        return u <= float(q[token] / p[token])

    q, p = row(0.0, 1.0), row(1.0, 0.0)
    zero: Any = Fixed(0.0)
    assert accepts_at_zero(q, p, 0, zero.uniform())
    assert accept_first(q, p, [0], WITHOUT, zero)[0] is None


def test_raw_bonus_is_drawn_from_another_row() -> None:
    """Without temperature, top-k and top-p."""

    def raw_bonus(
        draft: DraftTree, logits: TargetRows, sampler: Any, position: int
    ) -> VerifyResult:
        verdict = reject(draft, sampler.probabilities(logits.every()), sampler)
        if not verdict.path:
            return verdict
        return VerifyResult(verdict.path, sampler.draw(logits.every()[-1].softmax(-1)))

    used, right = bonus_row(raw_bonus, random_logits())
    assert distance(used, right) > 0.05
