"""The Gaussian process over masks: its posterior, and the masks it suggests."""

from __future__ import annotations

from random import Random

import pytest

from skipopt.gaussian_process import MaskGaussianProcess, suggest_mask
from skipopt.masks import MaskSpace, SkipMask

SPACE = MaskSpace(8, frozenset({0, 1, 14, 15}), 5)


def objective(mask: SkipMask) -> float:
    """Grows with the positions of the skipped sublayers; at most 1 over eight layers."""
    return sum(mask.skipped) / 65


def observations(space: MaskSpace, count: int) -> dict[SkipMask, float]:
    rng = Random(1)
    return {mask: objective(mask) for mask in (space.random(rng) for _ in range(count))}


def test_the_posterior_is_certain_at_observations_and_uncertain_far_from_them() -> None:
    values = observations(SPACE, 20)
    process = MaskGaussianProcess(SPACE, values)
    mean, deviation = process.predict(list(values))
    assert mean == pytest.approx(list(values.values()), abs=0.02)
    rng = Random(2)
    others = [mask for mask in (SPACE.random(rng) for _ in range(20)) if mask not in values]
    assert process.predict(others)[1].mean() > 2 * deviation.mean()


def test_a_kernel_of_another_process_is_kept() -> None:
    values = observations(SPACE, 20)
    first = MaskGaussianProcess(SPACE, values)
    fewer = dict(list(values.items())[:5])
    assert MaskGaussianProcess(SPACE, fewer, first.kernel).kernel == first.kernel
    assert MaskGaussianProcess(SPACE, fewer).kernel != first.kernel


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_values_are_fitted_without_a_warning(
    value: float, recwarn: pytest.WarningsRecorder
) -> None:
    process = MaskGaussianProcess(SPACE, dict.fromkeys(observations(SPACE, 5), value))
    mean, _ = process.predict([SPACE.random(Random(3))])
    assert mean[0] == pytest.approx(value)
    assert not recwarn


def test_a_suggestion_is_a_new_mask_of_the_space_and_repeats_with_its_seed() -> None:
    values = observations(SPACE, 20)
    mask = suggest_mask(SPACE, values, Random(1))
    assert mask == suggest_mask(SPACE, values, Random(1))
    assert mask in SPACE
    assert mask not in values


def test_suggestions_improve_on_random_masks() -> None:
    space = MaskSpace(8, frozenset(), 5)
    values = observations(space, 25)
    best_random = max(values.values())
    rng = Random(1)
    for _ in range(12):
        mask = suggest_mask(space, values, rng)
        values[mask] = objective(mask)
    assert max(values.values()) > max(best_random, 0.95)
