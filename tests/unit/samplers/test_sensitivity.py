"""The layer-sensitivity scan: its positions, and the gains of single sublayers."""

from __future__ import annotations

import pytest
from support.tiny import hf_greedy, tiny_llama, tiny_prompts, tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.cost_model.replay import best_prediction
from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers import sensitivity
from skipopt.samplers.context import SamplerContext
from skipopt.samplers.sensitivity import layer_sensitivity, subset_scorer
from skipopt.scoring import ScoredText, Scorer

COSTS = Costs(0.1, 0.2, 0.1, 0.01, (3.0, 3.1, 3.2, 3.4))
LAYERS = 3


def small_context(texts: int, length: int) -> SamplerContext:
    target = tiny_target(tiny_llama(LAYERS))
    made = [ScoredText((*p, *hf_greedy(target, p, length)), len(p)) for p in tiny_prompts(texts)]
    return SamplerContext(target, tuple(made), COSTS)


def test_few_positions_of_few_texts_are_scored() -> None:
    assert (
        subset_scorer(small_context(6, 20)).positions
        == sensitivity.SUBSET_TEXTS * sensitivity.POSITIONS_PER_TEXT
    )
    assert subset_scorer(small_context(2, 5)).positions == 10


def test_texts_without_a_continuation_are_left_out() -> None:
    known = small_context(2, 5)
    empty = ScoredText(known.texts[0].tokens[:4], 4)
    assert (
        subset_scorer(SamplerContext(known.target, (empty, *known.texts), COSTS)).positions == 10
    )


def test_gains_are_those_of_each_sublayer_alone() -> None:
    """With all positions in the subset."""
    known = small_context(3, 8)
    space = MaskSpace(LAYERS, frozenset({0, 5}))
    empty = SkipMask.empty(LAYERS)
    masks = [empty, *(empty.flip(i) for i in space.free)]
    traces = Scorer(known.target, known.texts).score(masks)
    values = [
        best_prediction(trace, mask, COSTS).speedup
        for trace, mask in zip(traces, masks, strict=True)
    ]
    gains = layer_sensitivity(space, known)
    assert list(gains) == list(space.free)
    assert [*gains.values()] == pytest.approx([value - values[0] for value in values[1:]])
