"""`auto`: arms share one registry, and trials go to those that have improved most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry
from skipopt.samplers.greedy import GreedySampler
from skipopt.samplers.initial_masks import early_exits
from skipopt.samplers.portfolio import (
    GREEDY_STALL,
    MAX_IDLE,
    WINDOW,
    Arm,
    PortfolioSampler,
)

SPACE = MaskSpace(12)


class ScriptedSampler(BaseSampler):
    """Random masks, each of which raises the best value by `rise`."""

    def __init__(self, registry: MaskRegistry, rise: float, limit: int = 10_000) -> None:
        super().__init__(SPACE, 0, registry)
        self.rise = rise
        self.limit = limit
        self.num_told = 0
        self.proposed: list[SkipMask] = []

    def tell(self, mask: SkipMask, value: float) -> None:
        super().tell(mask, value)
        self.num_told += 1

    def proposals(self) -> Iterator[SkipMask]:
        while len(self.proposed) < self.limit and (mask := self.registry.claim_random()):
            self.proposed.append(mask)
            yield mask


class ScriptedSearch:
    """A search by a portfolio of scripted arms alone.

    Attributes:
        turns: for each batch, the arm that proposed most of it.
    """

    def __init__(self, rises: Sequence[float], limits: Sequence[int] = (10_000,) * 3) -> None:
        registry = MaskRegistry(SPACE, Random(0))
        self.scripts = [
            ScriptedSampler(registry, *each) for each in zip(rises, limits, strict=False)
        ]
        self.arms = [Arm(script) for script in self.scripts]
        self.sampler = PortfolioSampler(SPACE, 0, registry, arms=self.arms, initial=[])
        self.best = 1.0
        self.turns: list[int] = []

    def run(self, batches: int) -> None:
        for _ in range(batches):
            before = [len(script.proposed) for script in self.scripts]
            masks = self.sampler.ask(4)
            counts = [len(s.proposed) - n for s, n in zip(self.scripts, before, strict=True)]
            self.turns.append(counts.index(max(counts)))
            for mask in masks:
                owner = next(s for s in self.scripts if mask in s.proposed)
                self.best += owner.rise
                self.sampler.tell(mask, self.best if owner.rise else 0.5)


def test_trials_go_to_the_arm_that_improves_most() -> None:
    search = ScriptedSearch([0.0, 0.01, 0.05])
    search.run(20)
    assert search.turns[0] == 0
    assert search.turns[1] == 1  # the first that improves is kept …
    turns_of_best = search.turns.count(2)
    search.run(MAX_IDLE // 4 + 20)
    assert (
        search.turns.count(2) > turns_of_best
    )  # … until the better one has been idle for too long
    assert search.turns[-1] == 2


def test_an_arm_that_stops_improving_is_left() -> None:
    search = ScriptedSearch([0.05, 0.0, 0.0])
    search.run(5)
    assert search.turns == [0] * 5
    search.scripts[0].rise = 0.0
    search.run(WINDOW // 4 + 6)
    assert set(search.turns[-6:]) == {0, 1, 2}  # none improves, so they alternate


def test_every_arm_receives_every_value() -> None:
    search = ScriptedSearch([0.0, 0.01])
    search.sampler.tell(SPACE.mask([3]), 1.0)  # a resumed study
    search.run(3)
    assert [script.num_told for script in search.scripts] == [13, 13]
    assert SPACE.mask([3]) not in search.scripts[0].proposed + search.scripts[1].proposed


def test_a_batch_that_an_arm_cannot_fill_is_filled_by_the_next() -> None:
    search = ScriptedSearch([0.0, 0.0], [1, 10_000])
    assert len(search.sampler.ask(4)) == 4
    assert [len(script.proposed) for script in search.scripts] == [1, 3]


def test_an_exclusive_arm_proposes_every_batch_until_it_has_no_mask() -> None:
    search = ScriptedSearch([0.0, 0.05], [12, 10_000])
    search.arms[0].exclusive_for = 1000
    search.run(2)
    assert search.turns == [0, 0]  # though the other would improve
    search.run(4)
    assert search.turns[-2:] == [1, 1]
    assert search.arms[0].exclusive_for <= 0


def test_an_exclusive_arm_that_stalls_is_no_longer_exclusive() -> None:
    search = ScriptedSearch([0.01, 0.05])
    search.arms[0].exclusive_for = 8
    search.run(5)
    assert search.turns == [0] * 5
    search.scripts[0].rise = 0.0
    search.run(2)
    assert search.turns[-2:] == [0, 0]  # it takes eight in a row without an improvement
    assert search.arms[0].exclusive_for == 0
    search.run(WINDOW // 4 + 1)
    assert search.turns[-1] == 1


def test_a_failed_trial_is_no_improvement() -> None:
    search = ScriptedSearch([0.0])
    first, second = search.sampler.ask(2)
    search.sampler.tell(first, 1.0)
    search.sampler.tell(second, float("inf"))
    assert list(search.arms[0].improvements) == [0.0, 0.0]


def test_early_exits_and_then_single_skips_come_first() -> None:
    space = MaskSpace(8)
    masks = PortfolioSampler(space, 0).ask(25)
    empty, every = SkipMask.empty(8), range(8)
    exits = [kept for n in (1, 2, 3, 4) for kept in ({*range(n), 7}, {*range(n)})]
    for mask, kept in zip(masks, exits, strict=False):
        skipped = [layer for layer in every if layer not in kept]
        assert mask == SkipMask.of(8, skipped, skipped)
    assert masks[8:] == [empty, *(empty.flip(i) for i in range(16))]


def worth(mask: SkipMask) -> float:
    """Even positions gain and odd ones lose."""
    return 1.0 + sum(0.1 if i % 2 == 0 else -0.1 for i in mask.skipped)


def high_exits(mask: SkipMask) -> float:
    """Like `worth`, but early exits are better than all that greedy finds."""
    return 9.0 if mask in early_exits(SPACE) else worth(mask)


def batches(
    sampler: BaseSampler, value: Callable[[SkipMask], float], count: int
) -> list[list[str]]:
    found = []
    for _ in range(count):
        masks = sampler.ask(8)
        for mask in masks:
            sampler.tell(mask, value(mask))
        found.append([str(mask) for mask in masks])
    return found


@pytest.mark.parametrize("value", [worth, high_exits])
def test_greedy_is_not_influenced_by_early_exits(value: Callable[[SkipMask], float]) -> None:
    alone = batches(GreedySampler(SPACE, 0), value, 10)
    first, *rest = batches(PortfolioSampler(SPACE, 0), value, 11)
    assert first == [str(mask) for mask in early_exits(SPACE)]
    assert rest == alone


def test_arms_receive_early_exits_when_greedy_has_stalled() -> None:
    sampler, exits = PortfolioSampler(SPACE, 0), early_exits(SPACE)
    batches(sampler, high_exits, 10)
    assert sampler.registry.best not in exits
    later = batches(sampler, high_exits, 2 * GREEDY_STALL * len(SPACE.free) // 8)
    assert sampler.registry.best == exits[-1]  # the first one reported
    assert {str(exits[-1].flip(i)) for i in SPACE.free} & {m for batch in later for m in batch}


def test_early_exits_of_a_resumed_study_are_kept_and_not_asked() -> None:
    sampler, known = PortfolioSampler(SPACE, 0), early_exits(SPACE)
    for mask in known:
        sampler.tell(mask, 9.0)
    asked = batches(sampler, worth, 40)
    assert not {str(mask) for mask in known} & {mask for batch in asked for mask in batch}
    assert sampler.registry.best in known


def test_early_exits_may_fail() -> None:
    sampler = PortfolioSampler(SPACE, 0)
    batches(sampler, lambda mask: float("nan") if mask in early_exits(SPACE) else worth(mask), 60)
    assert sampler.registry.best == SPACE.mask(range(0, 24, 2))


def test_there_are_no_early_exits_where_the_skip_count_is_fixed() -> None:
    space = MaskSpace(6, skip_count=4)
    assert all(len(mask.skipped) == 4 for mask in PortfolioSampler(space, 0).ask(20))


def test_each_mask_has_the_name_of_its_proposer() -> None:
    registry = MaskRegistry(SPACE, Random(0))
    arms = [Arm(ScriptedSampler(registry, 0.0, 2), name="one")]
    first = SPACE.mask([1])
    sampler = PortfolioSampler(SPACE, 0, registry, arms=arms, initial=[first])
    masks = sampler.ask(3)
    assert [sampler.proposer(mask) for mask in masks] == ["initial masks", "one", "one"]
    assert sampler.proposer(SPACE.mask([2, 3])) in (None, "one")
