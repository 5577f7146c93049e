"""When a worker has looked long enough: nothing better for long, the trials done, or told so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from skipopt.masks import SkipMask
from skipopt.storage.base import InMemoryStorage, Trial
from skipopt.study import optimize
from skipopt.study.config import SearchConfig
from skipopt.study.optimize import BATCH, BETTER, HOPELESS_PATIENCE, PATIENCE, TrialLoop

DEPTH = 8
FREE = 2 * DEPTH
LONG, SHORT = PATIENCE * FREE, HOPELESS_PATIENCE * FREE  # trials without a better one


class Counting:
    """Proposes one mask after another, up to `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked: list[int] = []
        self.told: list[float] = []

    def ask(self, count: int) -> list[SkipMask]:
        self.asked.append(count)
        first = len(self.told)
        masks = range(first, min(first + count, self.limit))
        bits = ([n >> i & 1 for i in range(FREE)] for n in masks)
        return [SkipMask.from_bits(each) for each in bits]

    def tell(self, mask: SkipMask, value: float) -> None:
        self.told.append(value)


class Values:
    """In place of `Heats`: trials are worth what comes next."""

    def __init__(self, values: Iterator[float]) -> None:
        self._values = values

    def judge(self, masks: Sequence[SkipMask]) -> list[Trial]:
        return [Trial(mask, next(self._values)) for mask in masks]


@pytest.fixture
def seek(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Seeks until it ends by itself; what the sampler was asked and told."""

    def seek(
        *values: float, then: float = 0.0, limit: int = 1 << FREE, stop: int = 1000, **plan: Any
    ) -> Counting:
        sampler = Counting(limit)
        heats = Values(chain(values, repeat(then)))
        monkeypatch.setattr(optimize, "PairedPruner", lambda *_: heats)
        monkeypatch.setattr(optimize, "make_sampler", lambda *_: sampler)
        monkeypatch.setattr(optimize, "speed_bound", lambda costs: None)
        target: Any = SimpleNamespace(depth=DEPTH)
        seeker = TrialLoop(target, SearchConfig(**plan), InMemoryStorage(), (), None)  # type: ignore[arg-type]
        seeker.seek(lambda: len(sampler.told) >= stop)
        assert [trial.value for trial in seeker.trials] == sampler.told
        return sampler

    return seek


def batches(trials: int) -> int:
    """So many trials, the last batch made whole."""
    return -(-trials // BATCH) * BATCH


def test_a_search_ends_when_nothing_better_has_come_for_long(seek: Any) -> None:
    assert len(seek(1.5, then=1.2).told) == batches(LONG + 1)


def test_a_better_mask_makes_it_go_on(seek: Any) -> None:
    late = [1.5, *[1.2] * (LONG - BATCH), 1.6]
    assert len(seek(*late, then=1.2).told) == batches(len(late) + LONG)


@pytest.mark.parametrize(("share", "counts"), [(0.5, False), (2.0, True)])
def test_a_hair_better_is_not_better(seek: Any, share: float, counts: bool) -> None:
    late = [1.5, *[1.2] * (LONG - BATCH), 1.5 * (1 + share * BETTER)]
    after = len(late) + LONG if counts else LONG + 1
    assert len(seek(*late, then=1.2).told) == batches(after)


def test_what_promises_no_gain_is_given_up_sooner(seek: Any) -> None:
    assert len(seek(0.9, then=0.8).told) == batches(SHORT + 1)
    assert len(seek(0.9, then=0.8, objective="matchness", skip_ratio=0.5).told) == batches(
        LONG + 1
    )


@pytest.mark.parametrize("trials", [1, BATCH, 3 * BATCH + 2, 2 * LONG])
def test_trials_that_were_asked_for_are_done_and_no_more(seek: Any, trials: int) -> None:
    assert len(seek(1.5, then=0.5, trials=trials).told) == trials


def test_something_is_scored_however_short_the_time(seek: Any) -> None:
    assert len(seek(stop=0).told) == BATCH


def test_a_search_ends_where_no_mask_is_left(seek: Any) -> None:
    assert len(seek(then=1.5, limit=BATCH + 3).told) == BATCH + 3
