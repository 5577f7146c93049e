"""When the trial loop ends: no better mask for long, the trials done, or stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import pytest

from skipopt.masks import SkipMask
from skipopt.storage.base import InMemoryStorage, Trial
from skipopt.study.config import SearchConfig
from skipopt.study.optimize import TrialLoop

FREE = 16  # sublayers
DEFAULTS = SearchConfig()
BATCH = DEFAULTS.batch_size
LONG = DEFAULTS.patience * FREE  # trials without a better one after which a search ends
SHORT = DEFAULTS.patience_without_gain * FREE


class CountingSampler:
    """Proposes one mask after another, up to `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.values: list[float] = []

    def proposer(self, mask: SkipMask) -> str | None:
        return None

    def ask(self, count: int) -> list[SkipMask]:
        first = len(self.values)
        masks = range(first, min(first + count, self.limit))
        bits = ([n >> i & 1 for i in range(FREE)] for n in masks)
        return [SkipMask.from_bits(each) for each in bits]

    def tell(self, mask: SkipMask, value: float) -> None:
        self.values.append(value)


def trials_until_end(
    *values: float, then: float = 0.0, limit: int = 1 << FREE, stop: int = 1000, **options: Any
) -> int:
    """How many trials a loop runs until it ends by itself, or at `stop`.

    Args:
        values: of the first trials.
        then: value of all others.
        limit: number of masks.
        options: of the search.
    """
    sampler: Any = CountingSampler(limit)
    supply: Iterator[float] = chain(values, repeat(then))

    def evaluate(masks: Sequence[SkipMask]) -> list[Trial]:
        return [Trial(mask, next(supply)) for mask in masks]

    storage = InMemoryStorage()
    loop = TrialLoop(SearchConfig(**options), sampler, evaluate, storage, FREE)
    loop.run(lambda: len(sampler.values) >= stop)
    assert [trial.value for trial in loop.trials] == sampler.values
    assert storage.trials() == loop.trials
    return len(loop.trials)


def batches(trials: int) -> int:
    """`trials` rounded up to whole batches."""
    return -(-trials // BATCH) * BATCH


def test_a_search_ends_after_many_trials_without_a_better_mask() -> None:
    assert trials_until_end(1.5, then=1.2) == batches(LONG + 1)


def test_a_better_mask_prolongs_the_search() -> None:
    late = [1.5, *[1.2] * (LONG - BATCH), 1.6]
    assert trials_until_end(*late, then=1.2) == batches(len(late) + LONG)


@pytest.mark.parametrize(("share", "counts"), [(0.5, False), (2.0, True)])
def test_an_improvement_below_the_minimum_does_not_count(share: float, counts: bool) -> None:
    late = [1.5, *[1.2] * (LONG - BATCH), 1.5 * (1 + share * DEFAULTS.min_improvement)]
    after = len(late) + LONG if counts else LONG + 1
    assert trials_until_end(*late, then=1.2) == batches(after)


def test_the_patience_is_shorter_without_any_predicted_gain() -> None:
    assert trials_until_end(0.9, then=0.8) == batches(SHORT + 1)
    matchness = {"objective": "matchness", "skip_ratio": 0.5}
    assert trials_until_end(0.9, then=0.8, **matchness) == batches(LONG + 1)


@pytest.mark.parametrize("trials", [1, BATCH, 3 * BATCH + 2, 2 * LONG])
def test_a_fixed_number_of_trials_is_run(trials: int) -> None:
    assert trials_until_end(1.5, then=0.5, trials=trials) == trials


def test_one_batch_is_scored_however_short_the_time() -> None:
    assert trials_until_end(stop=0) == BATCH


def test_a_search_ends_where_no_mask_is_left() -> None:
    assert trials_until_end(then=1.5, limit=BATCH + 3) == BATCH + 3
