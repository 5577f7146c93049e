"""On an objective shaped like a speedup, every sampler beats random search."""

from __future__ import annotations

import math
from random import Random
from statistics import fmean

import pytest

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.registry import make_sampler

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
    # Most of the way from the best random masks to the best known one.
    assert mean_best(name, space, 160) > random + 0.8 * (optimum - random)


@pytest.mark.parametrize("space", [FREE, FIXED], ids=["free", "fixed"])
def test_auto_beats_random_masks_by_far(space: MaskSpace) -> None:
    optimum = best_after("leave-one-out", space, 600, seed=0)
    random = mean_best("random", space, 120)
    assert best_after("auto", space, 120, seed=0) > random + 0.8 * (optimum - random)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "trials"), [("tpe", 40), ("bayes", 26)])
@pytest.mark.parametrize("space", [FREE, FIXED], ids=["free", "fixed"])
def test_models_of_the_values_beat_random_masks(name: str, trials: int, space: MaskSpace) -> None:
    random = mean_best("random", space, trials)
    assert mean_best(name, space, trials, batch=2) > random + 0.01


@pytest.mark.slow
def test_gp_beats_random_masks() -> None:
    assert best_after("gp", FREE, 22, seed=0) > mean_best("random", FREE, 22) + 0.01
