"""Verification of a chain emits exactly the target's distribution; known mistakes do not.

`law` follows the rule through every draft and every outcome of its coins, so nothing is drawn
and probabilities come out exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from skipopt.drafting.tree import DraftTree
from skipopt.sampling import Sampler, SamplingOptions
from skipopt.verifying.chain import Verdict, match_greedy, reject_sampled, residual, verify_chain

Rule = Callable[[DraftTree, Tensor, Any], Verdict]
Law = dict[tuple[int, ...], float]
EXACT = 1e-12
FIRST_Q, FIRST_P = (0.3, 0.4, 0.3), (0.6, 0.3, 0.1)
SECOND_Q, SECOND_P = (0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4)


class Coin:
    """Stands for u: falls as it is told, and notes the share that it was held against."""

    def __init__(self, falls: bool) -> None:
        self.falls = falls
        self.share = 0.0

    def __lt__(self, share: float) -> bool:
        self.share = min(1.0, share)
        return self.falls

    __le__ = __lt__

    @property
    def chance(self) -> float:
        return self.share if self.falls else 1.0 - self.share


class Script:
    """A sampler whose coins are given, and whose draw leaves the row to be read."""

    greedy = False

    def __init__(self, falls: tuple[bool, ...]) -> None:
        self.coins = [Coin(each) for each in falls]
        self._next = iter(self.coins)
        self.used: list[Coin] = []
        self.row = torch.zeros(0)

    def uniform(self) -> Any:
        self.used.append(next(self._next))
        return self.used[-1]

    def draw(self, row: Tensor) -> int:
        self.row = row
        return -1


class Fixed:
    """A sampler whose u is a number and whose draw is the likeliest token."""

    greedy = False

    def __init__(self, u: float) -> None:
        self.u = u

    def uniform(self) -> float:
        return self.u

    def draw(self, row: Tensor) -> int:
        return int(row.argmax())


def outcomes(rule: Rule, draft: DraftTree, q: Tensor) -> Law:
    """Probability of every emitted sequence, for one draft."""
    law: Law = defaultdict(float)
    seen = set()
    for falls in product((True, False), repeat=len(draft.tokens)):
        script = Script(falls)
        verdict = rule(draft, q, script)
        path = tuple(coin.falls for coin in script.used)
        chance = float(torch.tensor([c.chance for c in script.used], dtype=torch.float64).prod())
        if path in seen or chance == 0.0:
            continue
        seen.add(path)
        for token in script.row.nonzero().flatten().tolist():
            law[(*draft.tokens[: verdict.accepted], token)] += chance * float(script.row[token])
    return law


def law(rule: Rule, q: Tensor, p: Tensor) -> Law:
    """Of one sampled draft token: q is (2, V), or (V,) where only the first row matters."""
    rows = q if q.ndim == 2 else torch.stack([q, q])
    total: Law = defaultdict(float)
    for token in p.nonzero().flatten().tolist():
        draft = DraftTree((token,), "sampled", (p,))
        for emitted, chance in outcomes(rule, draft, rows).items():
            total[emitted] += float(p[token]) * chance
    return total


def first_token(found: Law, size: int) -> Tensor:
    row = torch.zeros(size, dtype=torch.float64)
    for emitted, chance in found.items():
        row[emitted[0]] += chance
    return row


def distance(a: Tensor, b: Tensor) -> float:
    """Total variation."""
    return 0.5 * float((a - b).abs().sum())


def bias(rule: Rule, q: Tensor, p: Tensor) -> float:
    """How far the first emitted token's distribution lies from q: 0 for an exact rule."""
    return distance(first_token(law(rule, q, p), len(p)), q)


def acceptance(rule: Rule, q: Tensor, p: Tensor) -> float:
    return sum(chance for emitted, chance in law(rule, q, p).items() if len(emitted) == 2)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_row(generator: torch.Generator, size: int) -> Tensor:
    """Skewed, with some tokens of probability zero."""
    weights = torch.rand(size, generator=generator, dtype=torch.float64) ** 3
    weights[torch.rand(size, generator=generator) < 0.25] = 0.0
    weights[int(torch.randint(size, (), generator=generator))] += 0.1
    return weights / weights.sum()


def random_pairs(
    count: int, smallest: int = 2, largest: int = 8, seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(smallest, largest + 1, (count,), generator=generator).tolist()
    return [(random_row(generator, n), random_row(generator, n)) for n in sizes]


# --- the real rule


def test_one_sampled_draft_emits_exactly_q() -> None:
    for q, p in random_pairs(1200):
        assert bias(reject_sampled, q, p) < EXACT


def test_bonus_after_an_accepted_draft_is_exactly_the_next_row() -> None:
    for q, p in random_pairs(200):
        following = q.flip(0)
        found = law(reject_sampled, torch.stack([q, following]), p)
        for token in {emitted[0] for emitted in found if len(emitted) == 2}:
            after = row(*(found.get((token, i), 0.0) for i in range(len(q))))
            assert distance(after / after.sum(), following) < EXACT


def law_of_two(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Law:
    """Of two sampled drafts, judged by (q, p) of their own."""
    (q, p), (q2, p2) = first, second
    found: Law = defaultdict(float)
    for a, b in product(p.nonzero().flatten().tolist(), p2.nonzero().flatten().tolist()):
        draft = DraftTree((a, b), "sampled", (p, p2))
        for emitted, chance in outcomes(reject_sampled, draft, torch.stack([q, q2, q])).items():
            found[emitted] += float(p[a] * p2[b]) * chance
    return found


def test_chain_of_two_emits_exactly_q_at_both_places() -> None:
    for first, second in zip(random_pairs(60, 4, 4), random_pairs(60, 4, 4, seed=1), strict=True):
        found = law_of_two(first, second)
        assert distance(first_token(found, 4), first[0]) < EXACT
        for token in {emitted[0] for emitted in found if len(emitted) > 1}:
            rest = {e[1:]: c for e, c in found.items() if len(e) > 1 and e[0] == token}
            following = first_token(rest, 4)
            assert distance(following / following.sum(), second[0]) < EXACT


def test_point_mass_draft_emits_exactly_q() -> None:
    for q, _ in random_pairs(300):
        for token in range(len(q)):
            found = outcomes(reject_sampled, DraftTree((token,)), torch.stack([q, q]))
            assert distance(first_token(found, len(q)), q) < EXACT
            accepted = sum(chance for emitted, chance in found.items() if len(emitted) == 2)
            assert accepted == pytest.approx(float(q[token]), abs=EXACT)


@pytest.mark.parametrize(
    ("q", "p", "expected"), [(FIRST_Q, FIRST_P, 0.7), (SECOND_Q, SECOND_P, 0.6)]
)
def test_acceptance_of_known_rows(
    q: tuple[float, ...], p: tuple[float, ...], expected: float
) -> None:
    assert acceptance(reject_sampled, row(*q), row(*p)) == pytest.approx(expected, abs=EXACT)


def test_acceptance_is_the_overlap_of_q_and_p() -> None:
    for q, p in random_pairs(300):
        overlap = float(torch.minimum(q, p).sum())
        assert acceptance(reject_sampled, q, p) == pytest.approx(overlap, abs=EXACT)


def test_equal_rows_are_always_accepted() -> None:
    for q, _ in random_pairs(100):
        assert acceptance(reject_sampled, q, q) == pytest.approx(1.0, abs=EXACT)
        for token in q.nonzero().flatten().tolist():
            draft = DraftTree((token,), "sampled", (q,))
            nearly_one = Fixed(1.0 - 2.0**-53)
            assert reject_sampled(draft, torch.stack([q, q]), nearly_one).accepted == 1


def test_disjoint_supports_are_never_accepted_and_still_emit_q() -> None:
    q, p = row(0.5, 0.5, 0, 0), row(0, 0, 0.25, 0.75)
    assert acceptance(reject_sampled, q, p) == 0.0
    assert bias(reject_sampled, q, p) < EXACT


def test_tokens_of_probability_zero_are_not_accepted_by_u_zero() -> None:
    q, p = row(0.0, 1.0), row(1.0, 0.0)
    for draft in (DraftTree((0,), "sampled", (p,)), DraftTree((0,))):
        assert reject_sampled(draft, torch.stack([q, q]), Fixed(0.0)) == Verdict(0, 1)


def test_tokens_of_probability_zero_are_never_emitted() -> None:
    for q, p in random_pairs(300):
        emitted = {sequence[0] for sequence in law(reject_sampled, q, p)}
        assert emitted == set(q.nonzero().flatten().tolist())


def test_residual_of_known_rows() -> None:
    q, p = row(*FIRST_Q), row(*FIRST_P)
    assert distance(residual(q, p, 0), row(0, 1 / 3, 2 / 3)) < EXACT
    assert distance(residual(q, None, 1), row(0.5, 0, 0.5)) < EXACT
    assert torch.equal(q, row(*FIRST_Q)), "the target's own row was written to"


def test_residual_of_equal_rows_is_q_itself() -> None:
    q = row(*FIRST_Q)
    assert torch.equal(residual(q, q.clone(), 0), q)
    assert torch.equal(residual(row(0, 1), None, 1), row(0, 1))


def test_nothing_drafted_draws_from_the_only_row() -> None:
    q = row(*FIRST_Q)
    found = outcomes(reject_sampled, DraftTree(), q[None])
    assert distance(first_token(found, 3), q) < EXACT


def test_one_hot_target_gives_its_token_whatever_is_drafted() -> None:
    q = row(0, 0, 1, 0)
    for _, p in random_pairs(50, 4, 4):
        assert set(law(reject_sampled, q, p)) <= {(2,), (2, 2)}


# --- greedy


@pytest.mark.parametrize(
    ("drafted", "verdict"),
    [
        ((), Verdict(0, 3)),
        ((3, 1, 2), Verdict(3, 0)),
        ((3, 0, 2), Verdict(1, 1)),
        ((0, 1, 2), Verdict(0, 3)),
    ],
)
def test_greedy_takes_the_agreeing_prefix_and_the_targets_next(
    drafted: tuple[int, ...], verdict: Verdict
) -> None:
    logits = torch.eye(4)[[3, 1, 2, 0]][: len(drafted) + 1]
    assert match_greedy(DraftTree(drafted), logits) == verdict


# --- the whole of verification: processed probabilities


class Listening(Sampler):
    """A real sampler that notes the rows it draws from."""

    rows: list[Tensor]

    def draw(self, probabilities: Tensor) -> int:
        self.rows.append(probabilities)
        return super().draw(probabilities)


def bonus_row(rule: Rule, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The row the bonus of an accepted draft is drawn from, and the one it should be."""
    sampler = Listening(SamplingOptions(0.5, top_k=4, top_p=0.9), torch.device("cpu"))
    sampler.rows = []
    processed = sampler.probabilities(logits)
    token = int(processed[0].argmax())
    draft = DraftTree((token,), "sampled", (processed[0],))
    assert rule(draft, logits, sampler).accepted == 1
    return sampler.rows[-1].double(), processed[1].double()


def random_logits(count: int = 2) -> Tensor:
    return 2 * torch.randn(count, 12, generator=torch.Generator().manual_seed(3))


def test_bonus_is_drawn_from_processed_probabilities() -> None:
    used, right = bonus_row(verify_chain, random_logits())
    assert distance(used, right) == 0.0
    assert int((used > 0).sum()) <= 4


# --- mistakes others made: each is caught by a check that the real rule passes


def stale_residual(draft: DraftTree, target: Tensor, sampler: Any) -> Verdict:
    """q is not updated after a rejection: the next token comes from q less the drafted token."""
    return _chain(draft, target, sampler, lambda q, p, token: residual(q, None, token))


def no_residual(draft: DraftTree, target: Tensor, sampler: Any) -> Verdict:
    """The token after a rejection is drawn from q."""
    return _chain(draft, target, sampler, lambda q, p, token: q)


def first_row_residual(draft: DraftTree, target: Tensor, sampler: Any) -> Verdict:
    """The residual of every position is the first one's."""
    return _chain(
        draft, target, sampler, lambda q, p, token: residual(target[0], draft.rows[0], token)
    )


def _chain(
    draft: DraftTree, target: Tensor, sampler: Any, left: Callable[[Tensor, Tensor, int], Tensor]
) -> Verdict:
    for i, token in enumerate(draft.tokens):
        q, p = target[i], draft.rows[i]
        if not sampler.uniform() < float(q[token] / p[token]):
            return Verdict(i, sampler.draw(left(q, p, token)))
    return Verdict(len(draft.tokens), sampler.draw(target[len(draft.tokens)]))


def discards_unlikely(draft: DraftTree, target: Tensor, sampler: Any) -> Verdict:
    """A drawn token of low p is not proposed."""
    kept = [i for i, t in enumerate(draft.tokens) if draft.rows[i][t] >= 0.2]
    tokens = tuple(draft.tokens[i] for i in kept)
    rows = tuple(draft.rows[i] for i in kept)
    return reject_sampled(DraftTree(tokens, "sampled", rows), target, sampler)


def unnormalized_draft(draft: DraftTree, target: Tensor, sampler: Any) -> Verdict:
    """The p of the ratio was cut, and not scaled up again as the one drawn from was."""
    rows = tuple(0.6 * p for p in draft.rows)
    return reject_sampled(DraftTree(draft.tokens, "sampled", rows), target, sampler)


def point_mass_as_sampled(draft: DraftTree, target: Tensor, sampler: Any) -> Verdict:
    """A deterministic draft is judged by the probability its drafter gave it."""
    return reject_sampled(DraftTree(draft.tokens, "sampled", draft.rows), target, sampler)


def accepts_at_zero(draft: DraftTree, target: Tensor, sampler: Any) -> Verdict:
    """`u <= ratio`."""
    q, p, token = target[0], draft.rows[0], draft.tokens[0]
    if sampler.uniform() <= float(q[token] / p[token]):
        return Verdict(1, sampler.draw(target[1]))
    return Verdict(0, sampler.draw(residual(q, p, token)))


def raw_bonus(draft: DraftTree, logits: Tensor, sampler: Any) -> Verdict:
    """The bonus is drawn without temperature, top-k and top-p."""
    verdict = reject_sampled(draft, sampler.probabilities(logits), sampler)
    if verdict.accepted < len(draft.tokens):
        return verdict
    return Verdict(verdict.accepted, sampler.draw(logits[-1].softmax(-1)))


@pytest.mark.parametrize(
    ("mutant", "expected"),
    [(no_residual, 0.14), (stale_residual, None), (discards_unlikely, 0.06)],
)
def test_wrong_rule_is_biased(mutant: Rule, expected: float | None) -> None:
    q, p = row(*SECOND_Q), row(*SECOND_P)
    found = bias(mutant, q, p)
    assert found > 0.04
    if expected is not None:
        assert found == pytest.approx(expected, abs=1e-9)


def test_draft_probabilities_not_normalized_again_are_biased() -> None:
    assert bias(unnormalized_draft, row(*SECOND_Q), row(*SECOND_P)) > 0.04


def test_deterministic_draft_judged_by_its_softmax_is_biased() -> None:
    """And as a point mass it is exact."""
    q, p = row(*SECOND_Q), row(*SECOND_P)
    token = int(p.argmax())
    both = torch.stack([q, q])
    wrong = outcomes(point_mass_as_sampled, DraftTree((token,), "point", (p,)), both)
    right = outcomes(reject_sampled, DraftTree((token,), "point", (p,)), both)
    assert distance(first_token(wrong, 4), q) > 0.1
    assert distance(first_token(right, 4), q) < EXACT


def second_position_bias(rule: Rule) -> float:
    """The first draft always stands; the second is judged by other rows."""
    sure, q, p = row(1, 0, 0, 0), row(*SECOND_Q), row(*SECOND_P)
    found: Law = defaultdict(float)
    for token in range(4):
        draft = DraftTree((0, token), "sampled", (sure, p))
        for emitted, chance in outcomes(rule, draft, torch.stack([sure, q, q])).items():
            found[emitted[1:]] += float(p[token]) * chance
    return distance(first_token(found, 4), q)


def test_residual_of_an_earlier_position_is_biased() -> None:
    assert second_position_bias(first_row_residual) > 0.09
    assert second_position_bias(reject_sampled) < EXACT


def test_u_equal_to_the_ratio_accepts_what_the_target_never_says() -> None:
    q, p = row(0.0, 1.0), row(1.0, 0.0)
    draft = DraftTree((0,), "sampled", (p,))
    assert accepts_at_zero(draft, torch.stack([q, q]), Fixed(0.0)).accepted == 1
    assert reject_sampled(draft, torch.stack([q, q]), Fixed(0.0)).accepted == 0


def test_raw_bonus_is_drawn_from_another_row() -> None:
    used, right = bonus_row(raw_bonus, random_logits())
    assert distance(used, right) > 0.05


# --- values


def test_sampled_drafts_come_with_their_rows() -> None:
    with pytest.raises(ValueError, match="2 sampled tokens"):
        DraftTree((1, 2), "sampled", (row(0.5, 0.5),))


def test_uniform_can_tell_probabilities_float32_cannot() -> None:
    sampler = Sampler(SamplingOptions(1.0), torch.device("cpu"))
    steps = [sampler.uniform() * 2**24 % 1 for _ in range(8)]
    assert any(step != 0 for step in steps)
    assert all(0 <= sampler.uniform() < 1 for _ in range(1000))
