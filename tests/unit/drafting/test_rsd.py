"""Trees drawn without replacement: by the right law, cut without bias, and worth their size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from support.chances import LEAST_P, chi_square
from support.table_engine import MASK, PROCESSED, sample, table_engine
from support.tiny import tiny_prompts, tiny_target
from torch import Tensor

from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.registry import make_drafter
from skipopt.drafting.rsd_c import ConstantTreeDrafter
from skipopt.drafting.rsd_s import Beams, BeamTreeDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.drafting.tree_builder import TreeBuilder
from skipopt.drafting.without_replacement import Level, best, condition, level_scores
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler, confidence
from skipopt.verification.rejection import reject

CPU = torch.device("cpu")
CLOSE = 1e-4
WARM = SamplingOptions(temperature=1.0, seed=0)
GREEDY = SamplingOptions()
Text = tuple[int, ...]


def fresh(options: SamplingOptions = WARM) -> TokenSampler:
    return TokenSampler(options, CPU, coupled=False)


def coupled(options: SamplingOptions) -> TokenSampler:
    return TokenSampler(options, CPU, coupled=True)


# --- drawing


def plackett_luce(chances: dict[Any, float], count: int) -> dict[tuple[Any, ...], float]:
    """Of every order of `count` draws without replacement."""
    found = {}
    for order in permutations(chances, count):
        left, chance = 1.0, 1.0
        for each in order:
            chance *= chances[each] / left
            left -= chances[each]
        found[order] = chance
    return found


def test_best_scores_are_draws_without_replacement() -> None:
    chances = {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}
    logits = torch.tensor(list(chances.values())).log().expand(20_000, -1)
    scores = level_scores(logits, fresh(), 0).scores
    for count in (1, 2, 3):
        seen = Counter(tuple(best(row, count)) for row in scores)
        assert chi_square(seen, plackett_luce(chances, count)) > LEAST_P


def test_best_scores_are_no_draws_with_another_noise() -> None:
    """What the check above is worth."""
    chances = {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}
    log_p = torch.tensor(list(chances.values())).log().expand(20_000, -1)
    noise = torch.randn(log_p.shape, generator=torch.Generator().manual_seed(0))
    seen = Counter(tuple(best(row, 2)) for row in log_p + noise)
    assert chi_square(seen, plackett_luce(chances, 2)) < LEAST_P


def test_no_more_tokens_are_drawn_than_are_possible() -> None:
    options = SamplingOptions(temperature=1.0, top_k=3)
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(1))
    level = level_scores(logits, fresh(options), 0)
    assert level.probs is not None
    for scores, row in zip(level.scores, level.probs, strict=True):
        found = best(scores, 8)
        assert set(found) == set(row.nonzero().flatten().tolist())
        assert [float(scores[i]) for i in found] == sorted(scores.tolist(), reverse=True)[:3]
    assert best(torch.zeros(4), 9) != []


def test_rows_are_those_that_verification_divides_by() -> None:
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


# --- stochastic beams


def naive_condition(scores: Tensor, largest: Tensor) -> Tensor:
    """−log(exp(−T) − exp(−Z) + exp(−g)), which overflows."""
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
    """Logits of their own after every text.  # (V,)"""
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
    """A tree, and its sequences of full length in the order of the beams."""
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


def chances_of(logits: Callable[[Text], Tensor], size: int, length: int) -> dict[Text, float]:
    """Of every text of that length."""
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
    """In order, too: first and second of the beams, over all pairs of the nine sequences."""
    logits, sampler = rows_by_text(3, 0), fresh()
    expected = plackett_luce(chances_of(logits, 3, 2), 2)
    seen = Counter(tuple(grow_beams(Beams(2), logits, 2, sampler)[1]) for _ in range(12_000))
    assert chi_square(seen, expected) > LEAST_P


def test_siblings_stand_in_the_order_they_were_drawn() -> None:
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
            every = chances_of(logits, 5, length + 1)
            following = [(*text, token) for text in kept for token in range(5)]
            kept = sorted(following, key=every.__getitem__, reverse=True)[:width]
        assert texts == kept
        assert tree.kind == "point"


def emitted(
    tree: DraftTree, q: Callable[[Text], Tensor], sampler: TokenSampler, length: int
) -> Text:
    """What verification and, after it, plain sampling say."""
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
    """Three children of each beam are drawn, and of all of them the likeliest are kept."""

    def choose(self, step: int, level: Level) -> list[tuple[int, int]]:
        log_p, perturbed = (each.flatten() for each in self._extended(level))
        size = level.scores.shape[1]
        drawn = [i * size + x for i, row in enumerate(level.scores) for x in best(row, 3)]
        likeliest = sorted(drawn, key=lambda place: -float(log_p[place]))[: self._width]
        kept = sorted(likeliest, key=lambda place: -float(perturbed[place]))
        self._log_p, self._perturbed = log_p[kept], perturbed[kept]
        return [divmod(place, size) for place in kept]


@pytest.mark.slow
@pytest.mark.parametrize(("beams", "count"), [(Beams, 20_000), (LikeliestBeams, 4000)])
def test_beams_may_be_dropped_by_their_noise_and_not_by_their_probability(
    beams: type[Beams], count: int
) -> None:
    """Two tokens of four, three beams, all of it through the real rejection."""
    q, p, sampler = rows_by_text(4, 7), rows_by_text(4, 8), fresh()
    seen = Counter(
        emitted(grow_beams(beams(3), p, 2, sampler)[0], q, sampler, 2) for _ in range(count)
    )
    unbiased = chi_square(seen, chances_of(q, 4, 2)) > LEAST_P
    assert unbiased == (beams is Beams)


# --- the drafters


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


PROMPT = tiny_prompts(1)[0]
THIN = SkipMask.of(3, attention=[1])


def every_way() -> list[TokenSampler]:
    return [fresh(), *nothing_drawn()]


def nothing_drawn() -> list[TokenSampler]:
    return [coupled(WARM), coupled(GREEDY)]


def prefilled(target: Target) -> Engine:
    made = Engine(target, 64)
    made.prefill(PROMPT[:-1])
    return made


def propose(
    target: Target, drafter: Drafter, sampler: TokenSampler | None = None, limit: int = 9
) -> DraftTree:
    """A draft behind the prompt, drawn afresh where nothing else is said."""
    held = prefilled(target)
    draft = drafter.propose(DraftState(list(PROMPT), held, sampler or fresh()), limit)
    assert held.position == len(PROMPT) - 1
    return draft


def both(target: Target, tau: float = 0.0) -> Iterator[ConstantTreeDrafter | BeamTreeDrafter]:
    yield ConstantTreeDrafter(target, THIN, (3, 2, 2), tau)
    yield BeamTreeDrafter(target, THIN, 4, 3, tau)


def test_shapes(target: Target) -> None:
    constant, beams = both(target)
    assert propose(target, constant).depths() == [1] * 3 + [2] * 6 + [3] * 12
    assert propose(target, beams).depths() == [1] * 4 + [2] * 4 + [3] * 4
    assert (constant.max_extra_rows, beams.max_extra_rows) == (21, 12)
    for drafter in (constant, beams):
        draft = propose(target, drafter)
        assert draft.forwards == 3
        assert draft.kind == "without-replacement"


@pytest.mark.parametrize("limit", range(5))
def test_limit_ends_the_tree(target: Target, limit: int) -> None:
    for sampler in every_way():
        for drafter in both(target):
            draft = propose(target, drafter, sampler, limit)
            assert max(draft.depths(), default=0) == min(limit, 3) == draft.forwards


def test_rows_are_the_drafts_own_after_each_parent(target: Target) -> None:
    """Under the mask, on the whole model's keys and values of the text."""
    sampler = fresh(PROCESSED)
    for drafter in both(target):
        draft, held = propose(target, drafter, sampler), prefilled(target)
        for parent, row in draft.draft_probs.items():
            line: list[int] = []
            while parent >= 0:
                line.insert(0, draft.tokens[parent])
                parent = draft.parents[parent]
            with skipping(target, THIN):
                logits = torch.cat([held.step([token]) for token in (PROMPT[-1], *line)])[-1:]
            held.rewind(len(PROMPT) - 1)
            assert float((sampler.probabilities(logits)[0] - row).abs().max()) < CLOSE
        for parent, children in draft.children().items():
            tokens = [draft.tokens[i] for i in children]
            assert len(set(tokens)) == len(tokens)
            assert all(float(draft.draft_probs[parent][token]) > 0 for token in tokens)


@pytest.mark.parametrize("sampler", nothing_drawn())
def test_first_children_are_what_the_draft_would_choose(
    target: Target, sampler: TokenSampler
) -> None:
    chain = propose(target, LayerSkipDrafter(target, THIN, gamma=3), sampler)
    for drafter in both(target):
        draft = propose(target, drafter, sampler)
        assert (draft.kind, draft.draft_probs) == ("point", {})
        children, node = draft.children(), -1
        for token in chain.tokens[: 1 if isinstance(drafter, BeamTreeDrafter) else 3]:
            node = children[node][0]
            assert draft.tokens[node] == token


def test_branching_of_one_is_layer_skipping(target: Target) -> None:
    for sampler in nothing_drawn():
        for tau in (0.0, 0.3, 0.6):
            chain = propose(target, LayerSkipDrafter(target, THIN, 5, tau), sampler)
            tree = propose(target, ConstantTreeDrafter(target, THIN, (1,) * 5, tau), sampler)
            beam = propose(target, BeamTreeDrafter(target, THIN, 1, 5, tau), sampler)
            assert tree.tokens == beam.tokens == chain.tokens
            assert tree.parents == beam.parents == chain.parents


def test_only_possible_tokens_branch(target: Target) -> None:
    two = fresh(SamplingOptions(temperature=1.0, top_k=2))
    constant, beams = both(target)
    assert propose(target, constant, two).depths() == [1] * 2 + [2] * 4 + [3] * 8
    assert propose(target, beams, two).depths() == [1] * 2 + [2] * 4 + [3] * 4
    one = fresh(SamplingOptions(temperature=1.0, top_k=1))
    for drafter in (constant, beams):
        assert propose(target, drafter, one).parents == (-1, 0, 1)


def test_trees_end_below_a_level_without_a_confident_row(target: Target) -> None:
    """By the rows alone: what was drawn has no say."""
    for sampler in every_way():
        for tau in (0.1, 0.3, 0.5, 0.9):
            for drafter in both(target, tau):
                draft = propose(target, drafter, sampler)
                sure = sureness(target, draft)
                levels = range(1, draft.forwards)
                assert all(max(sure[depth - 1]) >= tau for depth in levels)
                assert draft.forwards == 3 or max(sure[draft.forwards - 1]) < tau


def sureness(target: Target, draft: DraftTree) -> list[list[float]]:
    """By depth, the confidence of every row that children were drawn from."""
    found: list[list[float]] = [[] for _ in range(4)]
    state = DraftState(list(PROMPT), prefilled(target), fresh())
    with skipping(target, THIN), TreeBuilder(state) as growth:
        for token, parent in zip(draft.tokens, draft.parents, strict=True):
            growth.add(parent, token)
        for depth in range(draft.forwards):
            nodes = [n for n in range(-1, len(draft.tokens)) if growth.depth(n) == depth]
            found[depth] = confidence(growth.run(nodes)).tolist()
    return found


def test_a_text_is_drafted_anew_each_time(target: Target) -> None:
    """Beams of one round are not those of the next."""
    _, drafter = both(target)
    state = DraftState(list(PROMPT), prefilled(target), fresh())
    drafts = {drafter.propose(state, 9).tokens for _ in range(5)}
    assert len(drafts) == 5
    state.sampler.generator.manual_seed(0)
    again = [drafter.propose(state, 9).tokens]
    state.sampler.generator.manual_seed(0)
    assert again == [drafter.propose(state, 9).tokens]


# --- options


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        ("rsd-c", 2 + 4 + 4),
        ("rsd-c:branching=3-2", 3 + 6),
        ("rsd-c:branching=4", 4),
        ("rsd-s", 16),
        ("rsd-s:width=3:depth=2", 6),
    ],
)
def test_options_as_a_user_writes_them(target: Target, method: str, rows: int) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=2, tau=0.4)
    drafter = make_drafter(target, parse_method(method), profile)
    assert drafter.max_extra_rows == rows
    assert drafter.best_verifier == "rejection"
    assert drafter.tau == 0.4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("rsd-c:branching=2-0", "branching must be numbers of 1 or more, not '2-0'"),
        ("rsd-c:branching=2--1", "branching is '2--1'"),
        ("rsd-c:branching=2-x", "branching is '2-x'"),
        ("rsd-c:tau=2", r"tau must lie in \[0, 1\], not 2.0"),
        ("rsd-c:width=2", "rsd-c has no option 'width'"),
        ("rsd-s:width=0", "width must be 1 or more, not 0"),
        ("rsd-s:depth=-1", "depth must be 1 or more, not -1"),
        ("rsd-s:tau=nan", r"tau must lie in \[0, 1\], not nan"),
        ("rsd-s:width=2.5", "width is '2.5', expected a whole number"),
    ],
)
def test_options_that_cannot_be_meant(target: Target, method: str, complaint: str) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=2)
    with pytest.raises(UsageError, match=complaint):
        make_drafter(target, parse_method(method), profile)


def test_no_levels_at_all(target: Target) -> None:
    with pytest.raises(UsageError, match="branching must be numbers of 1 or more"):
        ConstantTreeDrafter(target, THIN, ())


# --- what they are worth


class IndependentTree(ConstantTreeDrafter):
    """The same tree with siblings drawn independently."""

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        rows: dict[int, Tensor] = {}
        with self._skipping, TreeBuilder(state) as growth:
            parents = [-1]
            for count in self.branching[:limit]:
                drawn = state.sampler.probabilities(growth.run(parents))
                rows.update(zip(parents, drawn, strict=True))
                parents = [
                    growth.add(parent, state.sampler.draw(row))
                    for parent, row in zip(parents, drawn, strict=True)
                    for _ in range(count)
                ]
        tokens, above = tuple(growth.tokens), tuple(growth.parents)
        return DraftTree(tokens, above, "independent", rows, growth.forwards)


@pytest.mark.slow
def test_without_replacement_more_is_accepted_for_the_same_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trees of six tokens, two levels deep: independent, constant branching, beams."""
    engine = table_engine(monkeypatch)
    drafters: Sequence[Drafter] = (
        IndependentTree(engine.target, MASK, (2, 2)),
        ConstantTreeDrafter(engine.target, MASK, (2, 2)),
        BeamTreeDrafter(engine.target, MASK, width=3, depth=2),
    )
    found = []
    for drafter in drafters:
        assert drafter.max_extra_rows == 6
        found.append(
            Statistics.of(sample(engine, drafter, PROCESSED, 4000)[1]).mean_acceptance_length
        )
    independent, constant, beams = found
    assert independent + 0.05 < constant
    assert constant < beams
