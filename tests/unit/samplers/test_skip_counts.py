"""Masks by their numbers of skipped attention and MLP sublayers."""

from __future__ import annotations

from random import Random

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.dedup import MaskRegistry
from skipopt.samplers.skip_counts import CompassSearch, SensitivityRanking, SkipCounts

LAYERS = 12
SPACE = MaskSpace(LAYERS)
RANKING = SensitivityRanking.from_gains(SPACE, {i: float(-i) for i in SPACE.free})


def test_skip_counts_are_read_back_from_their_mask() -> None:
    mask = RANKING.mask(SkipCounts(3, 2))
    assert mask == SkipMask.of(LAYERS, attention=[0, 1, 2], mlp=[0, 1])
    assert RANKING.counts(mask) == (3, 2)
    assert RANKING.counts(mask.flip(0)) is None
    assert RANKING.mask(SkipCounts(LAYERS + 1, 0)) is None


def test_compass_search_finds_the_best_counts() -> None:
    registry = MaskRegistry(SPACE, Random(0))
    search = CompassSearch(registry)
    for _ in range(12):
        for mask in list(search.proposals(RANKING)):
            value = -((len(mask.attention) - 7) ** 2) - (len(mask.mlp) - 5) ** 2
            registry.record(mask, float(value))
    assert registry.best == RANKING.mask(SkipCounts(7, 5))
    assert len(registry) < 60  # of 169
