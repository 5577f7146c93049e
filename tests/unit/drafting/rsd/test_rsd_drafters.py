"""The drafters rsd-c and rsd-s: tree shapes, options, and numbers of accepted tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from support.rsd import GREEDY, WARM, coupled, fresh
from support.table_engine import MASK, PROCESSED, sample, table_engine
from support.tiny import tiny_prompts
from torch import Tensor

from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.registry import make_drafter
from skipopt.drafting.rsd_c import ConstantTreeDrafter
from skipopt.drafting.rsd_s import BeamTreeDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.drafting.tree_builder import TreeBuilder
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler, confidence

CLOSE = 1e-4


PROMPT = tiny_prompts(1)[0]


SPARSE_MASK = SkipMask.of(3, attention=[1])


def every_sampler() -> list[TokenSampler]:
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
    """A draft after the prompt, drawn with fresh noise by default."""
    held = prefilled(target)
    draft = drafter.propose(DraftState(list(PROMPT), held, sampler or fresh()), limit)
    assert held.position == len(PROMPT) - 1
    return draft


def both(target: Target, tau: float = 0.0) -> Iterator[ConstantTreeDrafter | BeamTreeDrafter]:
    yield ConstantTreeDrafter(target, SPARSE_MASK, (3, 2, 2), tau)
    yield BeamTreeDrafter(target, SPARSE_MASK, 4, 3, tau)


def test_the_tree_has_the_requested_shape(target: Target) -> None:
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
    for sampler in every_sampler():
        for drafter in both(target):
            draft = propose(target, drafter, sampler, limit)
            assert max(draft.depths(), default=0) == min(limit, 3) == draft.forwards


def test_rows_are_the_drafts_own_after_each_parent(target: Target) -> None:
    """Rows are computed under the mask, on the target's keys and values of the text."""
    sampler = fresh(PROCESSED)
    for drafter in both(target):
        draft, held = propose(target, drafter, sampler), prefilled(target)
        for parent, row in draft.draft_probs.items():
            line: list[int] = []
            while parent >= 0:
                line.insert(0, draft.tokens[parent])
                parent = draft.parents[parent]
            with skipping(target, SPARSE_MASK):
                logits = torch.cat([held.step([token]) for token in (PROMPT[-1], *line)])[-1:]
            held.rewind(len(PROMPT) - 1)
            assert float((sampler.probabilities(logits)[0] - row).abs().max()) < CLOSE
        for parent, children in draft.children().items():
            tokens = [draft.tokens[i] for i in children]
            assert len(set(tokens)) == len(tokens)
            assert all(float(draft.draft_probs[parent][token]) > 0 for token in tokens)


@pytest.mark.parametrize("sampler", nothing_drawn())
def test_first_children_are_the_drafts_own_choices(target: Target, sampler: TokenSampler) -> None:
    chain = propose(target, LayerSkipDrafter(target, SPARSE_MASK, gamma=3), sampler)
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
            chain = propose(target, LayerSkipDrafter(target, SPARSE_MASK, 5, tau), sampler)
            tree = propose(
                target, ConstantTreeDrafter(target, SPARSE_MASK, (1,) * 5, tau), sampler
            )
            beam = propose(target, BeamTreeDrafter(target, SPARSE_MASK, 1, 5, tau), sampler)
            assert tree.tokens == beam.tokens == chain.tokens
            assert tree.parents == beam.parents == chain.parents


def test_only_tokens_with_probability_branch(target: Target) -> None:
    two = fresh(SamplingOptions(temperature=1.0, top_k=2))
    constant, beams = both(target)
    assert propose(target, constant, two).depths() == [1] * 2 + [2] * 4 + [3] * 8
    assert propose(target, beams, two).depths() == [1] * 2 + [2] * 4 + [3] * 4
    one = fresh(SamplingOptions(temperature=1.0, top_k=1))
    for drafter in (constant, beams):
        assert propose(target, drafter, one).parents == (-1, 0, 1)


def test_trees_end_below_a_level_without_a_confident_row(target: Target) -> None:
    """Confidence is that of the rows; it does not depend on the drawn tokens."""
    for sampler in every_sampler():
        for tau in (0.1, 0.3, 0.5, 0.9):
            for drafter in both(target, tau):
                draft = propose(target, drafter, sampler)
                sure = confidences(target, draft)
                levels = range(1, draft.forwards)
                assert all(max(sure[depth - 1]) >= tau for depth in levels)
                assert draft.forwards == 3 or max(sure[draft.forwards - 1]) < tau


def confidences(target: Target, draft: DraftTree) -> list[list[float]]:
    """Confidence of every row from which children were drawn, by depth."""
    found: list[list[float]] = [[] for _ in range(4)]
    state = DraftState(list(PROMPT), prefilled(target), fresh())
    with skipping(target, SPARSE_MASK), TreeBuilder(state) as growth:
        for token, parent in zip(draft.tokens, draft.parents, strict=True):
            growth.add(parent, token)
        for depth in range(draft.forwards):
            nodes = [n for n in range(-1, len(draft.tokens)) if growth.depth(n) == depth]
            found[depth] = confidence(growth.run(nodes)).tolist()
    return found


def test_a_text_is_drafted_anew_each_time(target: Target) -> None:
    """Beams of one round do not carry over to the next."""
    _, drafter = both(target)
    state = DraftState(list(PROMPT), prefilled(target), fresh())
    drafts = {drafter.propose(state, 9).tokens for _ in range(5)}
    assert len(drafts) == 5
    state.sampler.generator.manual_seed(0)
    again = [drafter.propose(state, 9).tokens]
    state.sampler.generator.manual_seed(0)
    assert again == [drafter.propose(state, 9).tokens]


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
def test_options_are_read_from_text(target: Target, method: str, rows: int) -> None:
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
def test_impossible_options_are_refused(target: Target, method: str, complaint: str) -> None:
    profile = Profile.by_hand(target, attention=[1], gamma=2)
    with pytest.raises(UsageError, match=complaint):
        make_drafter(target, parse_method(method), profile)


def test_a_tree_without_levels_is_refused(target: Target) -> None:
    with pytest.raises(UsageError, match="branching must be numbers of 1 or more"):
        ConstantTreeDrafter(target, SPARSE_MASK, ())


class IndependentTree(ConstantTreeDrafter):
    """The same tree with siblings drawn independently."""

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        rows: dict[int, Tensor] = {}
        with self.draft_model.drafting(state), TreeBuilder(state) as growth:
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
