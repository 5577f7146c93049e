"""The dynamic programs: a mask for every budget, true to the whole model's stream."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from support.tiny import hf_greedy, tiny_gpt2, tiny_llama, tiny_prompts, tiny_target
from torch import Tensor

from skipopt.cost_model.costs import Costs
from skipopt.masks import MaskSpace, SkipMask
from skipopt.models.target import Target
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.dp import DpSampler, planned_masks
from skipopt.samplers.layer_dp import (
    counted_sublayers,
    pareto_front,
    priced_sublayers,
    whole_layers,
)
from skipopt.samplers.sensitivity import EACH, TEXTS
from skipopt.scoring import ScoredText, Scorer

CLOSE = 1e-4
PRICES = Costs(0.1, 0.4, 0.2, 0.01, (3.0, 3.1, 3.2, 3.4))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def target(request: pytest.FixtureRequest) -> Target:
    return tiny_target({"llama": tiny_llama, "gpt2": tiny_gpt2}[request.param](gain=0.6))


@pytest.fixture(scope="module")
def texts(target: Target) -> list[ScoredText]:
    lengths = (9, 5, 2)
    pairs = zip(tiny_prompts(3), lengths, strict=True)
    return [ScoredText((*p, *hf_greedy(target, p, n)), len(p)) for p, n in pairs]


def states_under(scorer: Scorer, mask: SkipMask) -> Tensor:
    """The last stream, layer by layer, one mask at a time."""
    state = scorer.embedded
    for layer in scorer.target.layers:
        bits = (2 * layer.index in mask.skipped) + 2 * (2 * layer.index + 1 in mask.skipped)
        (state,) = scorer.advance(layer, [state], [(0, bits)])
    return state


def cosine(scorer: Scorer, mask: SkipMask) -> float:
    whole = states_under(scorer, SkipMask.empty(scorer.target.depth))
    near = torch.cosine_similarity(states_under(scorer, mask), whole, dim=-1)
    return float(near[scorer.valid].mean())


def test_streams_read_out_are_scores(target: Target, texts: list[ScoredText]) -> None:
    """What the programs see is what a score of the same mask would be."""
    scorer = Scorer(target, texts, stacked_rows=30)
    streams = pareto_front(scorer, MaskSpace(3), priced_sublayers(PRICES))
    traces = scorer.read_out([stream.state for stream in streams])
    scores = scorer.score([stream.mask for stream in streams])
    for stream, trace, score in zip(streams, traces, scores, strict=True):
        assert (trace.matched == score.matched).all(), stream.mask
        assert abs(trace.confidence - score.confidence)[score.valid].max() < CLOSE


def test_every_budget_has_one_mask_that_weighs_it(target: Target, texts: list[ScoredText]) -> None:
    weights = priced_sublayers(PRICES)
    streams = pareto_front(Scorer(target, texts), MaskSpace(3), weights)
    weighed = [2 * len(s.mask.attention) + len(s.mask.mlp) for s in streams]
    assert weighed == list(range(1, 10))


def test_whole_layers_are_skipped_whole(target: Target, texts: list[ScoredText]) -> None:
    streams = pareto_front(Scorer(target, texts), MaskSpace(3), whole_layers())
    assert [len(s.mask.attention) for s in streams] == [1, 2, 3]
    assert all(s.mask.attention == s.mask.mlp for s in streams)


def test_the_last_choices_are_the_best_by_cosine(target: Target, texts: list[ScoredText]) -> None:
    """Only in the last layer do streams of one budget meet to be judged by what they end in."""
    scorer = Scorer(target, texts)
    for stream in pareto_front(scorer, MaskSpace(3, frozenset(range(4))), counted_sublayers()):
        budget = len(stream.mask.skipped)
        rivals = [
            SkipMask.from_bits([0, 0, 0, 0, *bits])
            for bits in product((0, 1), repeat=2)
            if sum(bits) == budget
        ]
        assert cosine(scorer, stream.mask) == pytest.approx(
            max(cosine(scorer, mask) for mask in rivals), abs=CLOSE
        )


def test_frozen_sublayers_stay(target: Target, texts: list[ScoredText]) -> None:
    space = MaskSpace(3, frozenset({1, 2, 5}))
    streams = pareto_front(Scorer(target, texts), space, counted_sublayers())
    assert [len(s.mask.skipped) for s in streams] == [1, 2, 3]
    assert all(s.mask in space for s in streams)
    assert not pareto_front(
        Scorer(target, texts), MaskSpace(3, frozenset(range(6))), whole_layers()
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
def test_weights_are_prices_in_units_of_the_cheaper(
    attention: float, mlp: float, expected: tuple[int, int]
) -> None:
    weights = priced_sublayers(Costs(0.1, attention, mlp, 0.0, (1.0, 1.1)))
    assert (weights[1], weights[2]) == expected
    assert weights[3] == sum(expected)


def test_a_fixed_count_has_masks_of_that_count_only(
    target: Target, texts: list[ScoredText]
) -> None:
    space = MaskSpace(3, skip_count=2)
    masks = planned_masks(space, SamplerContext(target, tuple(texts), PRICES))
    assert masks
    assert all(mask in space for mask in masks)


def test_the_model_is_looked_at_once_and_not_before_it_is_needed(
    target: Target, texts: list[ScoredText], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.samplers import dp

    looks: list[MaskSpace] = []

    def planned(space: MaskSpace, sampler_context: SamplerContext) -> list[SkipMask]:
        looks.append(space)
        return planned_masks(space, sampler_context)

    monkeypatch.setattr(dp, "planned_masks", planned)
    sampler = DpSampler(MaskSpace(3), 0, SamplerContext(target, tuple(texts), PRICES))
    assert looks == []
    asked = sampler.ask(4) + sampler.ask(40)
    assert len(looks) == 1
    assert len(set(asked)) == 44


def test_a_few_positions_are_enough(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    (prompt,) = tiny_prompts(1)
    long = ScoredText((*prompt, *hf_greedy(target, prompt, EACH + 5)), len(prompt))
    seen: list[int] = []

    class Watched(Scorer):
        def __init__(self, target: Target, texts: list[ScoredText], *, stacked_rows: int) -> None:
            super().__init__(target, texts, stacked_rows=stacked_rows)
            seen.append(self.positions)

    monkeypatch.setattr("skipopt.scoring.Scorer", Watched)
    assert planned_masks(MaskSpace(3), SamplerContext(target, (long,) * (TEXTS + 3), PRICES))
    assert seen == [TEXTS * EACH]


def test_looking_leaves_no_trace_in_the_model(target: Target, texts: list[ScoredText]) -> None:
    planned_masks(MaskSpace(3), SamplerContext(target, tuple(texts), PRICES))
    assert all("forward" not in module.__dict__ for module in target.model.modules())
