"""Rejection over siblings, chains and trees emits exactly the target's distribution; known
mistakes do not.

Laws follow the rule through every draft and every outcome of its coins, so nothing is drawn and
probabilities come out exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from skipopt.drafting.tree import DraftTree, Kind
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.base import VerifyResult
from skipopt.verification.rejection import Rejection, accept_first, reject, residual, without

Judge = Callable[[Tensor, Tensor | None, list[int], Kind, Any], tuple[int | None, Tensor]]
Reject = Callable[[DraftTree, Tensor, Any], VerifyResult]
Law = dict[tuple[int, ...], float]
Rows = Callable[[tuple[int, ...]], Tensor]
T = TypeVar("T")

EXACT = 1e-12
FIRST = ((0.3, 0.4, 0.3), (0.6, 0.3, 0.1))
SECOND = ((0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4))
THIRD = ((0.618, 0.354, 0.028), (0.373, 0.58, 0.047))
INDEPENDENT: Kind = "independent"
WITHOUT: Kind = "without-replacement"
DRAWN: tuple[Kind, ...] = (INDEPENDENT, WITHOUT)
CPU = torch.device("cpu")


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
    """A sampler whose first coins are given, all later ones accept; its draw leaves the row."""

    greedy = False

    def __init__(self, falls: Sequence[bool] = ()) -> None:
        self.given = falls
        self.coins: list[Coin] = []
        self.row = torch.zeros(0)

    def uniform(self) -> Any:
        i = len(self.coins)
        self.coins.append(Coin(self.given[i] if i < len(self.given) else True))
        return self.coins[-1]

    def draw(self, row: Tensor) -> int:
        self.row = row
        return -1

    @property
    def chance(self) -> float:
        return prod(coin.chance for coin in self.coins)


class Fixed:
    """A sampler whose u is a number and whose draw is the likeliest token."""

    greedy = False

    def __init__(self, u: float) -> None:
        self.u = u

    def uniform(self) -> float:
        return self.u

    def draw(self, row: Tensor) -> int:
        return int(row.argmax())


def every_outcome(run: Callable[[Script], T]) -> Iterator[tuple[T, Script]]:
    """What `run` comes to, once for every way its coins can fall."""
    pending: list[tuple[bool, ...]] = [()]
    while pending:
        script = Script(given := pending.pop())
        result = run(script)
        falls = [coin.falls for coin in script.coins]
        pending += [(*falls[:i], False) for i in range(len(given), len(falls))]
        if script.chance > 0:
            yield result, script


def draws(p: Tensor, count: int, kind: Kind) -> Iterator[tuple[list[int], float]]:
    """Every way to draw `count` siblings, with its probability."""
    if count == 0:
        yield [], 1.0
        return
    for token in p.nonzero().flatten().tolist():
        if kind == INDEPENDENT:
            left = p
        elif count > 1:
            left = p.clone()
            left[token] = 0.0
            left = left / left.sum()
        for rest, chance in draws(left if count > 1 else p, count - 1, kind):
            yield [token, *rest], float(p[token]) * chance


def judged(
    rule: Judge, q: Tensor, p: Tensor | None, tokens: list[int], kind: Kind
) -> tuple[Tensor, float]:
    """Of one set of siblings: the distribution of the emitted token, and of acceptance."""
    emitted, accepted = torch.zeros_like(q), 0.0
    for (chosen, left), script in every_outcome(lambda s: rule(q, p, tokens, kind, s)):
        if chosen is None:
            emitted += script.chance * left
        else:
            emitted[tokens[chosen]] += script.chance
            accepted += script.chance
    return emitted, accepted


def law(rule: Judge, q: Tensor, p: Tensor, count: int, kind: Kind) -> tuple[Tensor, float]:
    """Of `count` siblings drawn from p."""
    emitted, accepted = torch.zeros_like(q), 0.0
    for tokens, chance in draws(p, count, kind):
        row, share = judged(rule, q, p, tokens, kind)
        emitted += chance * row
        accepted += chance * share
    return emitted, accepted


def distance(a: Tensor, b: Tensor) -> float:
    """Total variation."""
    return 0.5 * float((a - b).abs().sum())


def bias(rule: Judge, q: Tensor, p: Tensor, count: int, kind: Kind) -> float:
    """How far what is emitted lies from q: 0 for an exact rule."""
    return distance(law(rule, q, p, count, kind)[0], q)


def acceptance(q: Tensor, p: Tensor, count: int, kind: Kind) -> float:
    return law(accept_first, q, p, count, kind)[1]


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rows(pair: tuple[tuple[float, ...], ...]) -> tuple[Tensor, Tensor]:
    return row(*pair[0]), row(*pair[1])


def random_row(generator: torch.Generator, size: int) -> Tensor:
    """Skewed, with some tokens of probability zero."""
    weights = torch.rand(size, generator=generator, dtype=torch.float64) ** 3
    weights[torch.rand(size, generator=generator) < 0.25] = 0.0
    weights[int(torch.randint(size, (), generator=generator))] += 0.1
    return weights / weights.sum()


def random_pairs(
    count: int, smallest: int = 2, largest: int = 5, seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(smallest, largest + 1, (count,), generator=generator).tolist()
    return [(random_row(generator, n), random_row(generator, n)) for n in sizes]


def support(p: Tensor) -> list[int]:
    found: list[int] = p.nonzero().flatten().tolist()
    return found


def random_cases(count: int, most: int = 3, seed: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(q, p, k), k no larger than what can be drawn without replacement."""
    for i, (q, p) in enumerate(random_pairs(count, seed=seed)):
        yield q, p, min(1 + i % most, len(support(p)))


# --- siblings


@pytest.mark.parametrize(("kind", "most"), [(INDEPENDENT, 3), (WITHOUT, 4)])
def test_siblings_emit_exactly_q(kind: Kind, most: int) -> None:
    for q, p, count in random_cases(1500, most):
        assert bias(accept_first, q, p, count, kind) < EXACT


def test_one_sampled_draft_emits_exactly_q() -> None:
    for q, p in random_pairs(1200, largest=8):
        assert bias(accept_first, q, p, 1, INDEPENDENT) < EXACT


def test_point_siblings_emit_exactly_q() -> None:
    """Repeated ones and impossible ones, too."""
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


def test_all_there_is_to_draw_is_always_accepted() -> None:
    """Where the target says nothing else."""
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
def test_disjoint_supports_are_never_accepted_and_still_emit_q(kind: Kind) -> None:
    q, p = row(0.5, 0.3, 0.2, 0, 0, 0), row(0, 0, 0, 0.2, 0.2, 0.6)
    for count in (1, 2, 3):
        assert acceptance(q, p, count, kind) == 0.0
        assert bias(accept_first, q, p, count, kind) < EXACT


@pytest.mark.parametrize("kind", DRAWN)
def test_one_hot_target_gives_its_token_whatever_is_drafted(kind: Kind) -> None:
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
    """Rows that float32 holds exactly are judged exactly."""
    for q, p in random_pairs(60, smallest=4, seed=6):
        q, p = in_parts_of_1024(q), in_parts_of_1024(p)
        for kind in DRAWN:
            assert bias(_in_float32, q, p, min(3, len(support(p))), kind) < EXACT


def in_parts_of_1024(row: Tensor) -> Tensor:
    parts = (row * 1024).floor()
    parts[int(row.argmax())] += 1024 - parts.sum()
    return parts / 1024


def _in_float32(
    q: Tensor, p: Tensor | None, tokens: list[int], kind: Kind, sampler: Any
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


# --- chains and trees


def every_tree(
    rows_of: Rows, shape: Sequence[int], kind: Kind
) -> Iterator[tuple[DraftTree, float]]:
    """Trees with `shape[l]` children below each token of level l, with their probabilities."""
    yield from _below(_Grown(), [((), -1)], rows_of, shape, kind)


class _Grown:
    """A tree so far, that is not changed but copied."""

    def __init__(
        self,
        tokens: tuple[int, ...] = (),
        parents: tuple[int, ...] = (),
        rows: dict[int, Tensor] | None = None,
        chance: float = 1.0,
    ) -> None:
        self.tokens, self.parents, self.rows, self.chance = tokens, parents, rows or {}, chance

    def with_children(self, parent: int, p: Tensor, drawn: list[int], chance: float) -> _Grown:
        return _Grown(
            self.tokens + tuple(drawn),
            self.parents + (parent,) * len(drawn),
            {**self.rows, parent: p},
            self.chance * chance,
        )


def _below(
    grown: _Grown,
    parents: list[tuple[tuple[int, ...], int]],
    rows_of: Rows,
    shape: Sequence[int],
    kind: Kind,
) -> Iterator[tuple[DraftTree, float]]:
    if not shape:
        yield DraftTree(grown.tokens, grown.parents, kind, grown.rows), grown.chance
        return
    for level, children in _next_level(grown, parents, rows_of, shape[0], kind):
        yield from _below(level, children, rows_of, shape[1:], kind)


def _next_level(
    grown: _Grown,
    parents: list[tuple[tuple[int, ...], int]],
    rows_of: Rows,
    count: int,
    kind: Kind,
) -> Iterator[tuple[_Grown, list[tuple[tuple[int, ...], int]]]]:
    if not parents:
        yield grown, []
        return
    (path, node), *others = parents
    p = rows_of(path)
    for drawn, chance in draws(p, min(count, len(support(p))), kind):
        more = grown.with_children(node, p, drawn, chance)
        first = len(grown.tokens)
        own = [((*path, token), first + i) for i, token in enumerate(drawn)]
        for level, children in _next_level(more, others, rows_of, count, kind):
            yield level, own + children


def path_of(draft: DraftTree, node: int) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    while node >= 0:
        found, node = (draft.tokens[node], *found), draft.parents[node]
    return found


def target_rows(draft: DraftTree, rows_of: Rows) -> Tensor:
    return torch.stack([rows_of(path_of(draft, i)) for i in range(-1, len(draft.tokens))])


def outcomes(rule: Reject, draft: DraftTree, target: Tensor) -> Law:
    """Probability of every emitted sequence, for one draft."""
    found: Law = defaultdict(float)
    for verdict, script in every_outcome(lambda s: rule(draft, target, s)):
        path = tuple(draft.tokens[i] for i in verdict.path)
        for token in support(script.row):
            found[(*path, token)] += script.chance * float(script.row[token])
    return found


def joint_law(rule: Reject, q: Rows, trees: Iterator[tuple[DraftTree, float]], length: int) -> Law:
    """Of the first `length` tokens, where what a round leaves open is drawn from q."""
    found: Law = defaultdict(float)
    for draft, chance in trees:
        for emitted, share in outcomes(rule, draft, target_rows(draft, q)).items():
            for text, rest in _completed(emitted, q, length):
                found[text] += chance * share * rest
    return found


def _completed(
    text: tuple[int, ...], q: Rows, length: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    if len(text) >= length:
        yield text[:length], 1.0
        return
    following = q(text)
    for token in support(following):
        for whole, chance in _completed((*text, token), q, length):
            yield whole, float(following[token]) * chance


def plain_law(q: Rows, length: int) -> Law:
    return dict(_completed((), q, length))


def law_distance(a: Law, b: Law) -> float:
    return 0.5 * sum(abs(a.get(key, 0.0) - b.get(key, 0.0)) for key in {*a, *b})


def random_rows(size: int, seed: int) -> Rows:
    """A row of its own for every text."""
    known: dict[tuple[int, ...], Tensor] = {}
    generator = torch.Generator().manual_seed(seed)

    def rows_of(path: tuple[int, ...]) -> Tensor:
        if path not in known:
            known[path] = random_row(generator, size)
        return known[path]

    return rows_of


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
    kind: Kind, size: int, shape: tuple[int, ...]
) -> None:
    """All tokens of a round together, the bonus token among them."""
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
    """Only the second sibling has children: which one has them says nothing of its token."""

    def trees() -> Iterator[tuple[DraftTree, float]]:
        for (a, b), chance in draws(p(()), 2, WITHOUT):
            for (c, d), below in draws(p((b,)), 2, WITHOUT):
                rows = {-1: p(()), 1: p((b,))}
                yield DraftTree((a, b, c, d), (-1, -1, 1, 1), WITHOUT, rows), chance * below

    q, p = random_rows(4, 7), with_full_support(random_rows(4, 8))
    assert law_distance(joint_law(reject, q, trees(), 3), plain_law(q, 3)) < EXACT


def with_full_support(rows_of: Rows) -> Rows:
    return lambda path: (rows_of(path) + 0.1) / (rows_of(path) + 0.1).sum()


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


# --- the whole of verification: processed probabilities


class Listening(TokenSampler):
    """A real sampler that notes the rows it draws from."""

    rows: list[Tensor]

    def draw(self, probabilities: Tensor) -> int:
        self.rows.append(probabilities)
        return super().draw(probabilities)


def bonus_row(rule: Callable[..., VerifyResult], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The row the bonus of an accepted draft is drawn from, and the one it should be."""
    sampler = Listening(SamplingOptions(0.5, top_k=4, top_p=0.9), CPU, coupled=False)
    sampler.rows = []
    processed = sampler.probabilities(logits)
    draft = DraftTree.chain([int(processed[0].argmax())], [processed[0]])
    assert rule(draft, logits, sampler, 5).path == (0,)
    return sampler.rows[-1].double(), processed[1].double()


def random_logits(count: int = 2) -> Tensor:
    return 2 * torch.randn(count, 12, generator=torch.Generator().manual_seed(3))


def test_bonus_is_drawn_from_processed_probabilities() -> None:
    used, right = bonus_row(Rejection(), random_logits())
    assert distance(used, right) == 0.0
    assert int((used > 0).sum()) <= 4


def test_rejection_wants_fresh_draws() -> None:
    assert Rejection().coupled is False
    assert Rejection().name == "rejection"


def test_uniform_can_tell_probabilities_float32_cannot() -> None:
    sampler = TokenSampler(SamplingOptions(1.0), CPU, coupled=False)
    steps = [sampler.uniform() * 2**24 % 1 for _ in range(8)]
    assert any(step != 0 for step in steps)
    assert all(0 <= sampler.uniform() < 1 for _ in range(1000))


# --- mistakes others made: each is caught by a check that the real rule passes


def variant(
    ratio: Callable[[float, float], float] = lambda q, p: q / p,
    left: Callable[[Tensor, Tensor, int], Tensor] = residual,
    rest: Callable[[Tensor, int], Tensor] = without,
    final: Callable[[Tensor, Tensor], Tensor] = lambda first, now: now,
) -> Judge:
    """`accept_first`, with one of its parts replaced."""

    def rule(
        q: Tensor, p: Tensor | None, tokens: list[int], kind: Kind, sampler: Any
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
    q: Tensor, p: Tensor | None, tokens: list[int], kind: Kind, sampler: Any
) -> tuple[int | None, Tensor]:
    """A drawn token of low p is not proposed."""
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
    """And as point masses they are exact."""
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
        q: Tensor, p: Tensor | None, tokens: list[int], kind: Kind, sampler: Any
    ) -> tuple[int | None, Tensor]:
        assert p is not None
        likeliest = sorted(tokens, key=lambda token: -float(p[token]))
        chosen, left = accept_first(q, p, likeliest, kind, sampler)
        return (None if chosen is None else tokens.index(likeliest[chosen])), left

    q, p = rows(SECOND)
    assert bias(sorted_by_p, q, p, 2, WITHOUT) > 0.02


def test_draft_probabilities_not_normalized_again_are_biased() -> None:
    """The p of the ratio was cut, and not scaled up again as the one drawn from was."""
    mutant = variant(
        ratio=lambda q, p: q / (0.6 * p), left=lambda q, p, t: residual(q, 0.6 * p, t)
    )
    assert bias(mutant, *rows(SECOND), 1, INDEPENDENT) > 0.04


def test_residual_from_another_row_is_biased() -> None:
    """What is left at every place of a chain is taken from the first place's rows."""

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


def test_going_on_with_a_siblings_row_is_biased() -> None:
    """The rows of the first child are taken for those of the accepted one."""

    def mutant(draft: DraftTree, target: Tensor, sampler: Any) -> VerifyResult:
        mixed = target.clone()
        mixed[2] = target[1]
        return reject(draft, mixed, sampler)

    q, p = random_rows(4, 0), with_full_support(random_rows(4, 1))
    found = joint_law(mutant, q, every_tree(p, (2,), WITHOUT), 2)
    assert law_distance(found, plain_law(q, 2)) > 0.03


def test_u_equal_to_the_ratio_accepts_what_the_target_never_says() -> None:
    def accepts_at_zero(q: Tensor, p: Tensor, token: int, u: float) -> bool:
        return u <= float(q[token] / p[token])

    q, p = row(0.0, 1.0), row(1.0, 0.0)
    zero: Any = Fixed(0.0)
    assert accepts_at_zero(q, p, 0, zero.uniform())
    assert accept_first(q, p, [0], WITHOUT, zero)[0] is None


def test_raw_bonus_is_drawn_from_another_row() -> None:
    """Without temperature, top-k and top-p."""

    def raw_bonus(draft: DraftTree, logits: Tensor, sampler: Any, position: int) -> VerifyResult:
        verdict = reject(draft, sampler.probabilities(logits), sampler)
        if not verdict.path:
            return verdict
        return VerifyResult(verdict.path, sampler.draw(logits[-1].softmax(-1)))

    used, right = bonus_row(raw_bonus, random_logits())
    assert distance(used, right) > 0.05
