"""On an objective shaped like a speedup, every sampler beats random search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from statistics import fmean

import pytest
from optuna import Study
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from skipopt.masks import MaskSpace, SkipMask, sublayer_name
from skipopt.samplers.initial_masks import start_mask
from skipopt.samplers.leave_one_out import leave_one_out_gains, leave_one_out_masks
from skipopt.samplers.local_search import LocalSearchSampler
from skipopt.samplers.optuna_samplers import OptunaSampler
from skipopt.samplers.registry import make_sampler
from skipopt.samplers.skip_counts import SensitivityRanking, SkipCounts

LAYERS = 12  # 24 sublayers
FREE = MaskSpace(LAYERS)
FIXED = MaskSpace(LAYERS, skip_count=9)
SEEDS = range(3)


class Speed:
    """Speedup of a draft whose losses nearly add up; the first MLP and the last layer matter."""

    def __init__(self) -> None:
        rng = Random(1)
        count = 2 * LAYERS
        self.losses = [math.exp(rng.gauss(-3.6, 0.8)) for _ in range(count)]
        self.losses[1] = 2.5
        self.losses[-2] *= 4
        self.losses[-1] *= 4
        self.between = [rng.gauss(0.0, 0.01) for _ in range(count)]

    def __call__(self, mask: SkipMask) -> float:
        loss = sum(self.losses[i] for i in mask.skipped)
        loss += sum(self.between[i] for i in mask.skipped if i + 1 in mask.skipped)
        acceptance = math.exp(-max(loss, 0.0))
        saved = 0.4 * len(mask.attention) + 0.6 * len(mask.mlp)
        cost = 1 - 0.9 * saved / LAYERS
        return max(
            sum(acceptance**k for k in range(gamma + 1)) / (gamma * cost + 1)
            for gamma in (1, 2, 4, 6)
        )


speed = Speed()


def best_after(name: str, space: MaskSpace, trials: int, seed: int, batch: int = 8) -> float:
    sampler = make_sampler(name, space, seed)
    values: list[float] = []
    while len(values) < trials:
        for mask in sampler.ask(min(batch, trials - len(values))):
            values.append(speed(mask))
            sampler.tell(mask, values[-1])
    return max(values)


def mean_best(name: str, space: MaskSpace, trials: int, batch: int = 8) -> float:
    return fmean(best_after(name, space, trials, seed, batch) for seed in SEEDS)


@pytest.mark.parametrize("name", ["local-search", "leave-one-out", "greedy"])
@pytest.mark.parametrize("space", [FREE, FIXED], ids=["free", "fixed"])
def test_local_searches_beat_random_masks_by_far(name: str, space: MaskSpace) -> None:
    optimum = best_after("leave-one-out", space, 600, seed=0)
    random = mean_best("random", space, 160)
    # Most of the way from what random masks reach to the best known.
    assert mean_best(name, space, 160) > random + 0.8 * (optimum - random)


@pytest.mark.parametrize("space", [FREE, FIXED], ids=["free", "fixed"])
def test_auto_beats_random_masks_by_far(space: MaskSpace) -> None:
    optimum = best_after("leave-one-out", space, 600, seed=0)
    random = mean_best("random", space, 120)
    assert best_after("auto", space, 120, seed=0) > random + 0.8 * (optimum - random)


@pytest.mark.parametrize(("name", "trials"), [("tpe", 40), ("bayes", 26)])
@pytest.mark.parametrize("space", [FREE, FIXED], ids=["free", "fixed"])
def test_models_of_the_values_beat_random_masks(name: str, trials: int, space: MaskSpace) -> None:
    random = mean_best("random", space, trials)
    assert mean_best(name, space, trials, batch=2) > random + 0.01


def test_gp_beats_random_masks() -> None:
    assert best_after("gp", FREE, 22, seed=0) > mean_best("random", FREE, 22) + 0.01


class RecordingSampler(RandomSampler):
    """An Optuna sampler that records the values its study is told."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.values: dict[SkipMask, float] = {}

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        if state == TrialState.COMPLETE and values is not None:
            bits = [int(trial.params[sublayer_name(i)]) for i in range(2 * LAYERS)]
            mask = SkipMask(LAYERS, frozenset(i for i, bit in enumerate(bits) if bit))
            self.values[mask] = values[0]


def test_an_optuna_study_is_told_the_values_of_its_masks() -> None:
    replayed = make_sampler("tpe", FREE, 0).ask(3)  # of its ten initial masks
    recorder = RecordingSampler()
    sampler = OptunaSampler(FREE, 0, sampler=recorder, max_attempts=1)
    for mask in replayed:
        sampler.tell(mask, speed(mask))
    asked = sampler.ask(12)
    for mask in reversed(asked):
        sampler.tell(mask, speed(mask))
    assert recorder.values == {mask: speed(mask) for mask in asked}


def test_the_exhaustive_sampler_begins_with_the_sparsest() -> None:
    counts = [len(mask.skipped) for mask in make_sampler("exhaustive", MaskSpace(3), 0).ask(64)]
    assert counts == sorted(counts)


def test_a_fixed_count_starts_evenly_spread() -> None:
    space = MaskSpace(6, frozenset({0, 1, 10, 11}), skip_count=4)
    assert sorted(start_mask(space).skipped) == [3, 5, 7, 9]


def test_masks_of_one_local_search_batch_have_one_parent() -> None:
    sampler = LocalSearchSampler(FREE, 0)
    assert sampler.ask(1) == [SkipMask.empty(LAYERS)]
    assert all(len(mask.skipped) == 1 for mask in sampler.ask(8))


def test_local_search_moves_to_a_better_mask_that_was_only_told() -> None:
    sampler = LocalSearchSampler(FREE, 0)
    start = SkipMask.of(LAYERS, attention=[3, 5], mlp=[4])
    sampler.tell(SkipMask.empty(LAYERS), 1.0)
    sampler.tell(start, 1.5)
    assert all(len(start.skipped ^ mask.skipped) == 1 for mask in sampler.ask(8))


def test_local_search_tries_all_improving_moves_on_the_next_parent() -> None:
    sampler = LocalSearchSampler(FREE, 0)
    (empty,) = sampler.ask(1)
    sampler.tell(empty, 0.0)
    children = sampler.ask(8)
    for rank, mask in enumerate(children):
        sampler.tell(mask, 5.0 - rank if rank < 3 else -1.0)
    parent = children[0]
    second, third = children[1:3]
    together = parent.flip(*second.skipped, *third.skipped)
    one_by_one = [parent.flip(*second.skipped), parent.flip(*third.skipped)]
    assert sampler.ask(3) == [together, *one_by_one]


@pytest.mark.parametrize("space", [FREE, FIXED], ids=["free", "fixed"])
def test_leave_one_out_gains_are_exact_when_effects_add_up(space: MaskSpace) -> None:
    worth = [Random(2).gauss(0, 1) + i % 3 for i in range(2 * LAYERS)]
    singles = leave_one_out_masks(space)
    masks = [start_mask(space), *singles.values()]
    values = {m: sum(worth[i] for i in m.skipped) for m in masks}
    gains = leave_one_out_gains(space, singles, values)
    assert all(mask in space for mask in masks)
    offsets = [gains[i] - worth[i] for i in space.free]
    assert max(offsets) - min(offsets) < 1e-9


def test_a_sublayer_without_a_value_ranks_last() -> None:
    singles = leave_one_out_masks(FREE)
    values = {mask: 1.0 for i, mask in singles.items() if i != 4} | {start_mask(FREE): 2.0}
    ranking = SensitivityRanking.by(FREE, leave_one_out_gains(FREE, singles, values))
    assert ranking.attention[-1] == 4


def test_skip_counts_are_read_back_from_their_mask() -> None:
    ranking = SensitivityRanking.by(FREE, {i: float(-i) for i in FREE.free})
    mask = ranking.mask(SkipCounts(3, 2))
    assert mask == SkipMask.of(LAYERS, attention=[0, 1, 2], mlp=[0, 1])
    assert ranking.counts(mask) == (3, 2)
    assert ranking.counts(mask.flip(0)) is None
    assert ranking.mask(SkipCounts(LAYERS + 1, 0)) is None
