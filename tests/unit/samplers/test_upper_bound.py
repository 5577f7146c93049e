"""The bound is never below the prediction of replay, so excluding masks loses nothing."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from skipopt.cost_model.costs import Costs
from skipopt.cost_model.replay import TAUS, best_prediction
from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.upper_bound import speed_bound
from skipopt.scoring import Trace

SPACE = MaskSpace(6)


def random_costs(rng: Random) -> Costs:
    """Random costs, in which verification of more tokens may be slower or faster."""
    verify = [rng.uniform(0.5, 2.0) for _ in range(rng.randint(2, 9))]
    return Costs(rng.uniform(0, 0.5), *(rng.uniform(0, 0.3) for _ in range(3)), tuple(verify))


def random_trace(seed: int, likely: float) -> Trace:
    rng = np.random.default_rng(seed)
    shape = 3, 25, int(rng.integers(1, 5))
    matched = rng.random(shape) < likely
    return Trace(matched, rng.random(shape).astype(np.float32), rng.integers(1, 25, 3))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("likely", [0.5, 1.0])
def test_no_replay_is_faster_than_the_bound(seed: int, likely: float) -> None:
    rng = Random(seed)
    costs, mask, trace = random_costs(rng), SPACE.random(rng), random_trace(seed, likely)
    highest = speed_bound(costs)(mask)
    assert best_prediction(trace, mask, costs).speedup <= highest + 1e-12
    fixed = best_prediction(trace, mask, costs, gamma=1, taus=TAUS[3:5])
    assert fixed.speedup <= highest + 1e-12


def test_the_bound_is_reached_by_perfect_drafts_of_the_best_length() -> None:
    costs = Costs(0.1, 0.05, 0.05, 0.0, (1.0, 1.1, 1.2))
    everything = np.ones((1, 30, 1), bool)
    trace = Trace(everything, everything.astype(np.float32), np.array([30]))
    mask = SkipMask.of(6, attention=range(5))
    highest = speed_bound(costs)(mask)
    assert best_prediction(trace, mask, costs).speedup == pytest.approx(highest)


def test_the_bound_of_the_empty_mask_is_plain_decoding() -> None:
    costs = Costs(3.0, 1.0, 1.0, 0.0, (1.0, 5.0))
    assert speed_bound(costs)(SkipMask.empty(6)) == 1.0
