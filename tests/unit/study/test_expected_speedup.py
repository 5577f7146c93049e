"""The shrunken estimate of speedups, in simulated searches whose true speedups are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import NamedTuple

import numpy as np
import pytest

from skipopt.stats import significantly_worse
from skipopt.study.expected_speedup import Entrant, Expected, expected_speedups

CATEGORIES = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1]
# How much the log speedups of each entrant differ between kinds of text: the first two copy.
SPREADS = np.array([0.35, 0.25, 0.06, 0.08, 0.1])


@dataclass(frozen=True)
class World:
    """What searches are drawn from.

    Attributes:
        error: deviation of the log of predictions, each and all together.
        bias: of the log of all predictions.
        heavy: log speedups have the tails of a t distribution with three degrees of freedom.
    """

    error: float = 0.08
    bias: float = 0.0
    heavy: bool = False

    def searches(self, count: int, seed: int = 0) -> list[Search]:
        rng = np.random.default_rng(seed)
        return [self._search(rng) for _ in range(count)]

    def _search(self, rng: np.random.Generator) -> Search:
        predicted = rng.normal(0.25, 0.12, len(SPREADS))
        shared = self.bias + self.error * rng.normal()
        true = predicted + shared + self.error * rng.normal(size=len(SPREADS))
        shape = max(CATEGORIES) + 1, len(SPREADS)
        kinds = rng.standard_t(3, shape) / 3**0.5 if self.heavy else rng.normal(size=shape)
        prompts = (kinds * SPREADS)[CATEGORIES] + 0.5 * SPREADS * rng.normal(
            size=(len(CATEGORIES), len(SPREADS))
        )
        machine = 0.05 * rng.normal(size=(len(CATEGORIES), 1))  # of plain decoding
        return Search(true, np.exp(predicted), true + prompts + machine)


class Search(NamedTuple):
    """One simulated validation.

    Attributes:
        true: mean log speedups on all text.  # (K,)
        predicted: speedups.  # (K,)
        measured: log speedups by prompt.  # (N, K)
    """

    true: np.ndarray[tuple[int], np.dtype[np.float64]]
    predicted: np.ndarray[tuple[int], np.dtype[np.float64]]
    measured: np.ndarray[tuple[int, int], np.dtype[np.float64]]

    def expected(self) -> list[Expected]:
        entrants = [
            Entrant(dict(enumerate(own.tolist())), float(predicted))
            for own, predicted in zip(self.measured.T, self.predicted, strict=True)
        ]
        return expected_speedups(entrants, CATEGORIES)


def expected_fastest(search: Search) -> int:
    return int(np.argmax([each.log_speedup for each in search.expected()]))


def largest_mean(search: Search) -> int:
    return int(np.argmax(search.measured.mean(0)))


def simplest_tied(search: Search) -> int:
    """The first entrant that is not significantly slower than the one with the largest mean."""
    best = search.measured[:, largest_mean(search)]
    return next(
        i
        for i, own in enumerate(search.measured.T)
        if not significantly_worse((own - best).tolist(), 0.0, 0.1)
    )


def regret(searches: list[Search], choose: Callable[[Search], int]) -> float:
    """How far the chosen entrants are behind the best ones, as a mean of log speedups."""
    return float(np.mean([each.true.max() - each.true[choose(each)] for each in searches]))


WORLDS = [World(), World(error=0.04), World(bias=-0.15), World(heavy=True)]
BAD_PREDICTIONS = World(error=0.15)


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_regret_is_lower_than_with_simpler_rules(world: World) -> None:
    searches = world.searches(150)
    found = regret(searches, expected_fastest)
    assert found < 0.9 * regret(searches, largest_mean)
    assert found < 0.5 * regret(searches, simplest_tied)


def test_bad_predictions_do_little_harm() -> None:
    searches = BAD_PREDICTIONS.searches(200)
    found = regret(searches, expected_fastest)
    assert found < 1.2 * regret(searches, largest_mean)
    assert found < 0.7 * regret(searches, simplest_tied)


@pytest.mark.parametrize("world", [*WORLDS, BAD_PREDICTIONS], ids=str)
def test_the_expected_speedup_of_the_winner_is_unbiased(world: World) -> None:
    """Although it was chosen for being the largest; the largest mean itself is not."""
    ratios, naive, covered = [], [], []
    for search in world.searches(400, seed=1):
        expected = search.expected()
        winner = int(np.argmax([each.log_speedup for each in expected]))
        true, interval = exp(search.true[winner]), expected[winner].interval
        ratios.append(true / interval.median)
        covered.append(interval.low <= true <= interval.high)
        lucky = largest_mean(search)
        naive.append(exp(search.true[lucky] - search.measured[:, lucky].mean()))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.02)
    assert np.mean(naive) < 0.98
    assert 0.85 < np.mean(covered) < 0.99


def entrant(values: list[float], predicted: float | None = None) -> Entrant:
    return Entrant(dict(enumerate(values)), predicted)


def test_one_kind_of_text_counts_less_than_all_kinds() -> None:
    """Both have the same mean over categories; one of them is fast in one category only."""
    even = [0.2, 0.21, 0.19, 0.2, 0.2, 0.2]
    uneven = [1.2, 0.0, 0.0, 0.0, 0.0, 0.0]
    found = expected_speedups([entrant(even, 1.1), entrant(uneven, 1.1)], [*"abcdef"])
    assert found[0].log_speedup > found[1].log_speedup + 0.01
    assert found[0].deviation < found[1].deviation


def test_categories_count_equally() -> None:
    """Four prompts of one category do not outweigh one prompt of each other."""
    values = [0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1]
    (mixed,) = expected_speedups([entrant(values)], [*"aaaabcd"])
    (alike,) = expected_speedups([entrant(values)])
    assert mixed.log_speedup < 0.2 < alike.log_speedup


def test_an_entrant_that_was_dropped_is_judged_by_the_prompts_that_it_decoded() -> None:
    """The first prompts were easy for both."""
    kept = entrant([0.6, 0.6, 0.1, 0.1, 0.1, 0.1], 1.2)
    dropped = entrant([0.5, 0.5], 1.2)
    found = expected_speedups([kept, dropped])
    assert found[1].log_speedup < found[0].log_speedup
    assert found[1].deviation > found[0].deviation


def test_without_predictions_the_measurements_decide() -> None:
    values = np.array([0.3, 0.28, 0.32, 0.3, 0.31, 0.29])
    high, low = expected_speedups([entrant(values.tolist()), entrant((values - 0.2).tolist())])
    assert high.log_speedup == pytest.approx(0.3, abs=0.03)
    assert low.log_speedup == pytest.approx(0.1, abs=0.03)
    assert high.interval.low < exp(0.3) < high.interval.high


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one measurement"):
        expected_speedups([Entrant({}, 1.2)])
