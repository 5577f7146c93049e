"""Draft trees drawn without replacement have the right distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from support.chances import LEAST_P, chi_square
from support.rsd import GREEDY, coupled, fresh
from support.table_engine import PROCESSED
from torch import Tensor

from skipopt.drafting.rsd_s import Beams
from skipopt.drafting.tree import DraftTree
from skipopt.drafting.without_replacement import Level, best, condition, level_scores
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.rejection import reject

Text = tuple[int, ...]


def plackett_luce(chances: dict[Any, float], count: int) -> dict[tuple[Any, ...], float]:
    """Probability of every order of `count` draws without replacement."""
    found = {}
    for order in permutations(chances, count):
        left, chance = 1.0, 1.0
        for each in order:
            chance *= chances[each] / left
            left -= chances[each]
        found[order] = chance
    return found


@pytest.mark.slow
def test_best_scores_are_draws_without_replacement() -> None:
    chances = {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}
    logits = torch.tensor(list(chances.values())).log().expand(20_000, -1)
    scores = level_scores(logits, fresh(), 0).scores
    for count in (1, 2, 3):
        seen = Counter(tuple(best(row, count)) for row in scores)
        assert chi_square(seen, plackett_luce(chances, count)) > LEAST_P


def test_best_scores_with_another_noise_are_not_draws() -> None:
    """The check above fails for another noise."""
    chances = {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}
    log_p = torch.tensor(list(chances.values())).log().expand(20_000, -1)
    noise = torch.randn(log_p.shape, generator=torch.Generator().manual_seed(0))
    seen = Counter(tuple(best(row, 2)) for row in log_p + noise)
    assert chi_square(seen, plackett_luce(chances, 2)) < LEAST_P


def test_no_more_tokens_are_drawn_than_have_probability() -> None:
    options = SamplingOptions(temperature=1.0, top_k=3)
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(1))
    level = level_scores(logits, fresh(options), 0)
    assert level.probs is not None
    for scores, row in zip(level.scores, level.probs, strict=True):
        found = best(scores, 8)
        assert set(found) == set(row.nonzero().flatten().tolist())
        assert [float(scores[i]) for i in found] == sorted(scores.tolist(), reverse=True)[:3]
    assert best(torch.zeros(4), 9) != []


def test_draft_rows_are_the_probabilities_that_verification_uses() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(2))
    sampler = fresh(PROCESSED)
    level = level_scores(logits, sampler, 0)
    assert level.probs is not None
    assert level.probs.dtype == torch.float32
    assert torch.equal(level.probs, sampler.probabilities(logits))
    assert torch.equal(level.log_p.exp().float(), level.probs)


@pytest.mark.parametrize("options", [GREEDY, PROCESSED])
def test_a_coupled_sampler_draws_nothing(options: SamplingOptions) -> None:
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(3))
    for position in range(20):
        level = level_scores(logits, coupled(options), position)
        assert level.probs is None
        first = [best(scores, 3)[0] for scores in level.scores]
        assert first == coupled(options).choose(logits, [position] * 5)


def naive_condition(scores: Tensor, largest: Tensor) -> Tensor:
    """−log(exp(−T) − exp(−Z) + exp(−g)), which overflows for large scores."""
    bound, most = largest[:, None], scores.amax(-1, keepdim=True)
    return -((-bound).exp() - (-most).exp() + (-scores).exp()).log()


def test_conditioned_scores_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    largest = torch.randn(200, generator=generator, dtype=torch.float64)
    found = condition(scores, largest)
    assert torch.allclose(found, naive_condition(scores, largest), atol=1e-9)
    assert torch.equal(found.amax(-1), largest), "the best child is as good as its parent"
    assert torch.equal(found.argsort(-1), scores.argsort(-1)), "the order stays"


def test_conditioned_scores_neither_overflow_nor_bring_back_the_impossible() -> None:
    far = torch.tensor([[-900.0, -1000.0, float("-inf")]], dtype=torch.float64)
    for largest in (-905.0, -5.0, 0.0, 700.0):
        found = condition(far, torch.tensor([largest], dtype=torch.float64))[0]
        assert float(found[0]) == largest
        assert float("-inf") < float(found[1]) < largest
        assert float(found[2]) == float("-inf")


def rows_by_text(size: int, seed: int) -> Callable[[Text], Tensor]:
    """Independent logits for every text, shape (V,)."""
    known: dict[Text, Tensor] = {}

    def logits(text: Text) -> Tensor:
        if text not in known:
            generator = torch.Generator().manual_seed(hash((seed, *text)) % 2**31)
            known[text] = 1.5 * torch.randn(size, generator=generator)
        return known[text]

    return logits


def grow_beams(
    beams: Beams, logits: Callable[[Text], Tensor], depth: int, sampler: TokenSampler
) -> tuple[DraftTree, list[Text]]:
    """A tree, and its full-length sequences in the order of the beams."""
    tokens: list[int] = []
    parents: list[int] = []
    rows: dict[int, Tensor] = {}
    texts: dict[int, Text] = {-1: ()}
    nodes = [-1]
    for step in range(depth):
        level = level_scores(torch.stack([logits(texts[node]) for node in nodes]), sampler, step)
        if level.probs is not None:
            rows.update(zip(nodes, level.probs, strict=True))
        children = beams.choose(step, level)
        parents += [nodes[i] for i, _ in children]
        first = len(tokens)
        tokens += [token for _, token in children]
        texts |= {first + n: (*texts[nodes[i]], t) for n, (i, t) in enumerate(children)}
        nodes = list(range(first, len(tokens)))
    kind: Any = "without-replacement" if rows else "point"
    return DraftTree(tuple(tokens), tuple(parents), kind, rows), [texts[node] for node in nodes]


def probabilities_of(
    logits: Callable[[Text], Tensor], size: int, length: int
) -> dict[Text, float]:
    """Probability of every text of that length."""
    found: dict[Text, float] = {(): 1.0}
    for _ in range(length):
        found = {
            (*text, token): chance * float(row[token])
            for text, chance in found.items()
            for row in [logits(text).double().softmax(-1)]
            for token in range(size)
        }
    return found


@pytest.mark.slow
def test_beams_are_sequences_drawn_without_replacement() -> None:
    """First and second beam, over all pairs of the nine sequences."""
    logits, sampler = rows_by_text(3, 0), fresh()
    expected = plackett_luce(probabilities_of(logits, 3, 2), 2)
    seen = Counter(tuple(grow_beams(Beams(2), logits, 2, sampler)[1]) for _ in range(12_000))
    assert chi_square(seen, expected) > LEAST_P


def test_siblings_are_in_the_order_they_were_drawn() -> None:
    logits, sampler = rows_by_text(8, 1), fresh()
    firsts: Counter[int] = Counter()
    for _ in range(3000):
        tree, _ = grow_beams(Beams(4), logits, 1, sampler)
        firsts[tree.tokens[0]] += 1
    row = logits(()).double().softmax(-1)
    assert chi_square(firsts, dict(enumerate(row.tolist()))) > LEAST_P


def test_beams_without_noise_are_beam_search() -> None:
    logits = rows_by_text(5, 2)
    for width in (1, 2, 4):
        tree, texts = grow_beams(Beams(width), logits, 3, coupled(GREEDY))
        kept: list[Text] = [()]
        for length in range(3):
            every = probabilities_of(logits, 5, length + 1)
            following = [(*text, token) for text in kept for token in range(5)]
            kept = sorted(following, key=every.__getitem__, reverse=True)[:width]
        assert texts == kept
        assert tree.kind == "point"


def emitted(
    tree: DraftTree, q: Callable[[Text], Tensor], sampler: TokenSampler, length: int
) -> Text:
    """Tokens of verification, and of plain sampling after it."""
    texts: list[Text] = [()]
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        texts.append((*texts[parent + 1], token))
    target = sampler.probabilities(torch.stack([q(text) for text in texts]))
    verdict = reject(tree, target, sampler)
    text = (*(tree.tokens[i] for i in verdict.path), verdict.last_token)
    while len(text) < length:
        text = (*text, sampler.draw(sampler.probabilities(q(text)[None])[0]))
    return text[:length]


class LikeliestBeams(Beams):
    """Draws three children of each beam and keeps the likeliest ones of all."""

    def choose(self, step: int, level: Level) -> list[tuple[int, int]]:
        log_p, perturbed = (each.flatten() for each in self._extended(level))
        size = level.scores.shape[1]
        drawn = [i * size + x for i, row in enumerate(level.scores) for x in best(row, 3)]
        likeliest = sorted(drawn, key=lambda place: -float(log_p[place]))[: self._width]
        kept = sorted(likeliest, key=lambda place: -float(perturbed[place]))
        self._log_p, self._perturbed = log_p[kept], perturbed[kept]
        return [divmod(place, size) for place in kept]


@pytest.mark.slow
@pytest.mark.parametrize(("beams", "count"), [(Beams, 8000), (LikeliestBeams, 4000)])
def test_dropping_beams_by_probability_is_biased(beams: type[Beams], count: int) -> None:
    """Dropping beams by their noise is unbiased; with a vocabulary of four, two tokens, three
    beams.
    """
    q, p, sampler = rows_by_text(4, 7), rows_by_text(4, 8), fresh()
    seen = Counter(
        emitted(grow_beams(beams(3), p, 2, sampler)[0], q, sampler, 2) for _ in range(count)
    )
    unbiased = chi_square(seen, probabilities_of(q, 4, 2)) > LEAST_P
    assert unbiased == (beams is Beams)
