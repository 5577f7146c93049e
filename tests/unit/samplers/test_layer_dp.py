"""The dynamic programs: for each weight, a mask that keeps the hidden states close."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from support.tiny import hf_greedy, tiny_gpt2, tiny_llama, tiny_prompts, tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.masks import MaskSpace, SkipMask
from skipopt.models.target import Target
from skipopt.samplers import dp
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.dp import DpSampler, planned_masks
from skipopt.samplers.layer_dp import (
    cost_weights,
    count_weights,
    pareto_front,
    whole_layer_weights,
)
from skipopt.scoring import ScoredText, Scorer
from skipopt.scoring.candidate_state import CandidateState

CLOSE = 1e-4
COSTS = Costs(0.1, 0.4, 0.2, 0.01, (3.0, 3.1, 3.2, 3.4))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def target(request: pytest.FixtureRequest) -> Target:
    return tiny_target({"llama": tiny_llama, "gpt2": tiny_gpt2}[request.param](gain=0.6))


@pytest.fixture(scope="module")
def texts(target: Target) -> list[ScoredText]:
    lengths = (9, 5, 2)
    pairs = zip(tiny_prompts(3), lengths, strict=True)
    return [ScoredText((*p, *hf_greedy(target, p, n)), len(p)) for p, n in pairs]


def states_under(scorer: Scorer, mask: SkipMask) -> CandidateState:
    """Hidden states after the last layer, computed for this mask alone."""
    state = scorer.embedded
    for layer in scorer.target.layers:
        bits = (2 * layer.index in mask.skipped) + 2 * (2 * layer.index + 1 in mask.skipped)
        (state,) = scorer.advance(layer, [state], [(0, bits)])
    return state


def cosine(scorer: Scorer, mask: SkipMask) -> float:
    full = states_under(scorer, SkipMask.empty(scorer.target.depth))
    found = states_under(scorer, mask)
    cosines = torch.cosine_similarity(found.rows(scorer.valid), full.rows(scorer.valid), dim=-1)
    return float(cosines.mean())


def test_traces_of_the_paths_are_those_of_scoring_their_masks(
    target: Target, texts: list[ScoredText]
) -> None:
    scorer = Scorer(target, texts, stacked_rows=30)
    paths = pareto_front(scorer, MaskSpace(3), cost_weights(COSTS))
    traces = scorer.read_out([path.state for path in paths])
    scores = scorer.score([path.mask for path in paths])
    for path, trace, score in zip(paths, traces, scores, strict=True):
        assert (trace.matched == score.matched).all(), path.mask
        assert abs(trace.confidence - score.confidence)[score.valid].max() < CLOSE


def test_every_weight_has_one_mask(target: Target, texts: list[ScoredText]) -> None:
    weights = cost_weights(COSTS)
    paths = pareto_front(Scorer(target, texts), MaskSpace(3), weights)
    skipped = [2 * len(path.mask.attention) + len(path.mask.mlp) for path in paths]
    assert skipped == list(range(1, 10))


def test_whole_layers_are_skipped_whole(target: Target, texts: list[ScoredText]) -> None:
    paths = pareto_front(Scorer(target, texts), MaskSpace(3), whole_layer_weights())
    assert [len(path.mask.attention) for path in paths] == [1, 2, 3]
    assert all(path.mask.attention == path.mask.mlp for path in paths)


def test_the_last_choices_are_the_best_by_cosine(target: Target, texts: list[ScoredText]) -> None:
    """In the last layer, all paths of one weight are compared by their final hidden states."""
    scorer = Scorer(target, texts)
    for path in pareto_front(scorer, MaskSpace(3, frozenset(range(4))), count_weights()):
        weight = len(path.mask.skipped)
        candidates = [
            SkipMask(3, frozenset(i for i, bit in enumerate(bits, start=4) if bit))
            for bits in product((0, 1), repeat=2)
            if sum(bits) == weight
        ]
        assert cosine(scorer, path.mask) == pytest.approx(
            max(cosine(scorer, mask) for mask in candidates), abs=CLOSE
        )


def test_frozen_sublayers_stay(target: Target, texts: list[ScoredText]) -> None:
    space = MaskSpace(3, frozenset({1, 2, 5}))
    paths = pareto_front(Scorer(target, texts), space, count_weights())
    assert [len(path.mask.skipped) for path in paths] == [1, 2, 3]
    assert all(path.mask in space for path in paths)
    assert not pareto_front(
        Scorer(target, texts), MaskSpace(3, frozenset(range(6))), whole_layer_weights()
    )


@pytest.mark.parametrize(
    ("attention", "mlp", "expected"),
    [
        (0.2, 0.2, (1, 1)),
        (0.5, 0.2, (2, 1)),
        (0.1, 0.3, (1, 3)),
        (9, 1, (5, 1)),
        (-0.1, 1, (1, 5)),
    ],
)
def test_weights_are_costs_in_units_of_the_cheaper_sublayer(
    attention: float, mlp: float, expected: tuple[int, int]
) -> None:
    weights = cost_weights(Costs(0.1, attention, mlp, 0.0, (1.0, 1.1)))
    assert (weights[1], weights[2]) == expected
    assert weights[3] == sum(expected)


def test_a_fixed_count_has_masks_of_that_count_only(
    target: Target, texts: list[ScoredText]
) -> None:
    space = MaskSpace(3, skip_count=2)
    masks = planned_masks(space, SamplerContext(target, tuple(texts), COSTS))
    assert masks
    assert all(mask in space for mask in masks)


def test_the_programs_run_once_and_at_the_first_ask(
    target: Target, texts: list[ScoredText], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.samplers import dp

    calls: list[MaskSpace] = []

    def planned(space: MaskSpace, context: SamplerContext) -> list[SkipMask]:
        calls.append(space)
        return planned_masks(space, context)

    monkeypatch.setattr(dp, "planned_masks", planned)
    sampler = DpSampler(MaskSpace(3), 0, context=SamplerContext(target, tuple(texts), COSTS))
    assert calls == []
    asked = sampler.ask(4) + sampler.ask(40)
    assert len(calls) == 1
    assert len(set(asked)) == 44


def test_the_programs_leave_the_model_unpatched(target: Target, texts: list[ScoredText]) -> None:
    planned_masks(MaskSpace(3), SamplerContext(target, tuple(texts), COSTS))
    assert all("forward" not in module.__dict__ for module in target.model.modules())


def test_the_programs_look_at_few_positions_of_few_texts() -> None:
    target = tiny_target(tiny_llama(3))
    made = [ScoredText((*p, *hf_greedy(target, p, 20)), len(p)) for p in tiny_prompts(6)]
    empty = ScoredText(made[0].tokens[:4], 4)
    context = SamplerContext(target, (empty, *made), COSTS)
    assert dp.subset_scorer(context).positions == dp.SUBSET_TEXTS * dp.POSITIONS_PER_TEXT
    short = SamplerContext(target, (ScoredText(made[0].tokens[:9], 4),), COSTS)
    assert dp.subset_scorer(short).positions == 5
