"""Masks that are not close to the best at a few positions are not scored at more."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from statistics import fmean, stdev
from typing import Any

import pytest
from support.tiny import hf_greedy, tiny_llama, tiny_prompts, tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED
from skipopt.masks import MaskSpace, SkipMask
from skipopt.models.target import Target
from skipopt.scoring import ScoredText, Scorer, TextContexts, Trace
from skipopt.storage.base import Trial
from skipopt.study.config import ObjectiveName, SearchConfig
from skipopt.study.objective import Objective
from skipopt.study.pruner import SuccessiveHalving, rows_per_mask

DEPTH = 3
FIRST = SearchConfig().first_texts
COSTS = Costs(0.1, 1.0, 1.0, 0.1, (6.4, 6.6, 6.8, 7.0, 7.2))
SPACE = MaskSpace(DEPTH)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(DEPTH, gain=2.0))


@pytest.fixture(scope="module")
def texts(target: Target) -> list[ScoredText]:
    prompts = tiny_prompts(FIRST + 2, 4, 9)
    return [ScoredText((*p, *hf_greedy(target, p, 5 + i)), len(p)) for i, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def masks() -> list[SkipMask]:
    rng = Random(0)
    found = [SPACE.random(rng) for _ in range(40)]
    return list(dict.fromkeys([SkipMask.empty(DEPTH), *found]))


def objective_of(name: ObjectiveName = "speed") -> Objective:
    ratio = 0.5 if name == "matchness" else None
    return Objective(SearchConfig(objective=name, skip_ratio=ratio), COSTS)


def in_batches(pruner: SuccessiveHalving, masks: list[SkipMask]) -> dict[SkipMask, Trial]:
    trials: dict[SkipMask, Trial] = {}
    for start in range(0, len(masks), 8):
        batch = masks[start : start + 8]
        trials |= {trial.mask: trial for trial in pruner.evaluate(batch)}
    return trials


@pytest.mark.parametrize("name", ["speed", "matchness"])
def test_masks_that_are_not_pruned_have_their_value_on_all_texts(
    target: Target, texts: list[ScoredText], masks: list[SkipMask], name: ObjectiveName
) -> None:
    objective = objective_of(name)
    config = replace(objective.config, reduction_factor=2, prune_alpha=0.001)
    objective = replace(objective, config=config)
    found = in_batches(SuccessiveHalving(TextContexts(target), texts, objective), masks)
    exact = objective.evaluate_all(masks, Scorer(target, texts).score(masks))
    kept = [trial for trial in exact if not found[trial.mask].pruned]
    assert 1 < len(kept) < len(masks), "some are pruned, some are not"
    for trial in kept:
        assert found[trial.mask].value == pytest.approx(trial.value)
    assert max(trial.value for trial in found.values()) <= max(t.value for t in kept) + 1e-9


def test_about_one_in_four_goes_on(
    target: Target, texts: list[ScoredText], masks: list[SkipMask]
) -> None:
    found = in_batches(SuccessiveHalving(TextContexts(target), texts, objective_of()), masks)
    kept = sum(not trial.pruned for trial in found.values())
    assert kept <= len(masks) / SearchConfig().reduction_factor


def test_the_first_masks_are_compared_with_the_reference(
    target: Target, texts: list[ScoredText], masks: list[SkipMask]
) -> None:
    """The empty mask has a match everywhere, and is worth more than any that skips."""
    costs = Costs(0.01, 0.01, 0.01, 0.001, (6.4, 6.6, 6.8, 7.0, 7.2))
    empty = SkipMask.empty(DEPTH)
    objective = Objective(SearchConfig(), costs)
    pruner = SuccessiveHalving(TextContexts(target), texts, objective, empty)
    others = [mask for mask in masks if mask != empty]
    assert all(trial.pruned for trial in pruner.evaluate(others))
    (trial,) = pruner.evaluate([empty])
    exact = objective.evaluate(empty, Scorer(target, texts).score([empty])[0])
    assert (trial.value, trial.pruned) == (exact.value, False)


def test_rows_of_a_mask_are_those_of_each_stage_by_the_share_that_reaches_it() -> None:
    config = SearchConfig(first_texts=2, first_positions=3, more_positions=5, reduction_factor=4)
    assert rows_per_mask(config, [10, 4, 8]) == pytest.approx(
        (3 + 3) + (5 + 1 + 2) / 4 + (5 + 0 + 3) / 16
    )
    assert rows_per_mask(config, []) == 0.0


class FixedObjective:
    """Replaces `Objective`: these values on the first texts, and their mean as the trial's."""

    def __init__(self, values: dict[SkipMask, tuple[float, ...]]) -> None:
        self.config = SearchConfig(reduction_factor=1)
        self.draft_config = UNCHANGED
        self._values = values

    def evaluate(self, mask: SkipMask, trace: Trace) -> Trial:
        return Trial(mask, fmean(self._values[mask]))

    def per_text_values(self, trial: Trial, trace: Trace) -> tuple[float, ...]:
        return self._values[trial.mask]


@pytest.mark.parametrize(("errors", "pruned"), [(1.5, False), (1.8, True), (0.0, False)])
def test_a_mask_is_pruned_if_it_is_significantly_worse(
    target: Target, texts: list[ScoredText], errors: float, pruned: bool
) -> None:
    best, other = SkipMask.of(DEPTH, [1]), SkipMask.of(DEPTH, [2])
    spread = (0.1, -0.1) * (FIRST // 2)
    behind = errors * stdev(spread) / FIRST**0.5
    values = {best: (1.5,) * FIRST, other: tuple(1.5 + s - behind for s in spread)}
    objective: Any = FixedObjective(values)
    pruner = SuccessiveHalving(TextContexts(target), texts, objective)
    assert not pruner.evaluate([best])[0].pruned
    assert pruner.evaluate([other])[0].pruned == pruned


def test_no_mask_is_pruned_where_there_are_few_texts(
    target: Target, texts: list[ScoredText]
) -> None:
    pruner = SuccessiveHalving(TextContexts(target), texts[:FIRST], objective_of())
    mask = SkipMask.of(DEPTH, [1], [2])
    expected = objective_of().evaluate(mask, Scorer(target, texts[:FIRST]).score([mask])[0])
    assert pruner.evaluate([mask]) == [expected]


def test_estimates_are_never_above_the_best_value(
    target: Target, texts: list[ScoredText], masks: list[SkipMask]
) -> None:
    pruner = SuccessiveHalving(TextContexts(target), texts, objective_of())
    best = 0.0
    for mask in masks:
        (trial,) = pruner.evaluate([mask])
        if trial.pruned:
            assert trial.value <= best
            assert trial.prediction is not None
            assert trial.prediction.speedup == trial.value
        best = max(best, trial.value)


def test_joined_traces_are_those_of_all_texts(target: Target, texts: list[ScoredText]) -> None:
    mask = SkipMask.of(DEPTH, [1], [2])
    parts = [Scorer(target, some, 3).score([mask])[0] for some in (texts[:2], texts[2:])]
    whole, joined = Scorer(target, texts, 3).score([mask])[0], Trace.concatenate(parts)
    assert (joined.valid == whole.valid).all()
    assert (joined.matched == whole.matched).all() or (
        joined.matched[joined.valid] == whole.matched[whole.valid]
    ).all()
    assert joined.matchness == pytest.approx(whole.matchness)
    hits = [round(m * n) for m, n in zip(joined.matchness_per_text, joined.lengths, strict=True)]
    assert sum(hits) == round(joined.matchness * joined.lengths.sum())
