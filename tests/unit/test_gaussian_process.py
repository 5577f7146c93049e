"""Suggestions of a Gaussian process over masks."""

from __future__ import annotations

from random import Random

from skipopt.gaussian_process import suggest_mask
from skipopt.masks import MaskSpace, SkipMask


def test_suggestion_is_new_fits_the_space_and_repeats_with_its_seed() -> None:
    space = MaskSpace(8, frozenset({0, 1, 14, 15}), 5)
    rng = Random(0)
    values = {space.random(rng): i / 20 for i in range(20)}
    found = {suggest_mask(space, values, Random(seed), seed) for seed in (1, 1)}
    assert len(found) == 1
    assert found.pop() in space
    assert not found & set(values)


def test_suggestions_find_the_sublayers_that_are_cheap_to_skip() -> None:
    """Worth of a mask: how few of the first layers it skips."""
    space = MaskSpace(8, frozenset(), 5)
    rng = Random(1)

    def worth(mask: SkipMask) -> float:
        return sum(mask.skipped) / 65

    values = {mask: worth(mask) for mask in (space.random(rng) for _ in range(25))}
    at_random = max(values.values())
    for seed in range(12):
        mask = suggest_mask(space, values, rng, seed)
        values[mask] = worth(mask)
    assert max(values.values()) > at_random
    assert max(values.values()) > 0.95
