"""Exact distributions of rejection sampling, by enumerating drafts and outcomes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from skipopt.drafting.tree import DraftKind, DraftTree
from skipopt.verification.base import VerifyResult

Judge = Callable[[Tensor, Tensor | None, list[int], DraftKind, Any], tuple[int | None, Tensor]]


Reject = Callable[[DraftTree, Tensor, Any], VerifyResult]


Law = dict[tuple[int, ...], float]


Rows = Callable[[tuple[int, ...]], Tensor]


T = TypeVar("T")


EXACT = 1e-12


SECOND = ((0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4))


INDEPENDENT: DraftKind = "independent"


WITHOUT: DraftKind = "without-replacement"


DRAWN: tuple[DraftKind, ...] = (INDEPENDENT, WITHOUT)


class Coin:
    """A uniform draw u with a given outcome; records the threshold it was compared with."""

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
    """A sampler whose first coins are given; later ones accept, and `draw` leaves the row."""

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
    """A sampler whose u is a given number and whose draw is the likeliest token."""

    greedy = False

    def __init__(self, u: float) -> None:
        self.u = u

    def uniform(self) -> float:
        return self.u

    def draw(self, row: Tensor) -> int:
        return int(row.argmax())


def every_outcome(run: Callable[[Script], T]) -> Iterator[tuple[T, Script]]:
    """The result of `run` and its script, for every outcome of the script's coins."""
    pending: list[tuple[bool, ...]] = [()]
    while pending:
        script = Script(given := pending.pop())
        result = run(script)
        falls = [coin.falls for coin in script.coins]
        pending += [(*falls[:i], False) for i in range(len(given), len(falls))]
        if script.chance > 0:
            yield result, script


def draws(p: Tensor, count: int, kind: DraftKind) -> Iterator[tuple[list[int], float]]:
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
    rule: Judge, q: Tensor, p: Tensor | None, tokens: list[int], kind: DraftKind
) -> tuple[Tensor, float]:
    """For one set of siblings: the distribution of the emitted token, and the acceptance rate."""
    emitted, accepted = torch.zeros_like(q), 0.0
    for (chosen, left), script in every_outcome(lambda s: rule(q, p, tokens, kind, s)):
        if chosen is None:
            emitted += script.chance * left
        else:
            emitted[tokens[chosen]] += script.chance
            accepted += script.chance
    return emitted, accepted


def law(rule: Judge, q: Tensor, p: Tensor, count: int, kind: DraftKind) -> tuple[Tensor, float]:
    """Distribution of the emitted token for `count` siblings drawn from p."""
    emitted, accepted = torch.zeros_like(q), 0.0
    for tokens, chance in draws(p, count, kind):
        row, share = judged(rule, q, p, tokens, kind)
        emitted += chance * row
        accepted += chance * share
    return emitted, accepted


def distance(a: Tensor, b: Tensor) -> float:
    """Total variation distance."""
    return 0.5 * float((a - b).abs().sum())


def bias(rule: Judge, q: Tensor, p: Tensor, count: int, kind: DraftKind) -> float:
    """Total variation distance between the law of emitted tokens and q; 0 for an exact rule."""
    return distance(law(rule, q, p, count, kind)[0], q)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rows(pair: tuple[tuple[float, ...], ...]) -> tuple[Tensor, Tensor]:
    return row(*pair[0]), row(*pair[1])


def random_row(generator: torch.Generator, size: int) -> Tensor:
    """A skewed distribution in which some tokens have probability zero."""
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
    """(q, p, k), where k is at most the number of tokens that can be drawn without replacement."""
    for i, (q, p) in enumerate(random_pairs(count, seed=seed)):
        yield q, p, min(1 + i % most, len(support(p)))


def every_tree(
    rows_of: Rows, shape: Sequence[int], kind: DraftKind
) -> Iterator[tuple[DraftTree, float]]:
    """Trees with `shape[l]` children below each token of level l, with their probabilities."""
    yield from _below(_Grown(), [((), -1)], rows_of, shape, kind)


class _Grown:
    """An immutable partial tree; adding children returns a copy."""

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
    kind: DraftKind,
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
    kind: DraftKind,
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
    """Distribution of the first `length` tokens; tokens beyond the round are drawn from q."""
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
    """An independent row for every text."""
    known: dict[tuple[int, ...], Tensor] = {}
    generator = torch.Generator().manual_seed(seed)

    def rows_of(path: tuple[int, ...]) -> Tensor:
        if path not in known:
            known[path] = random_row(generator, size)
        return known[path]

    return rows_of


def with_full_support(rows_of: Rows) -> Rows:
    return lambda path: (rows_of(path) + 0.1) / (rows_of(path) + 0.1).sum()
