"""auto: one book for all arms, and trials for those that have paid."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers import portfolio
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.dedup import MaskRegistry
from skipopt.samplers.greedy import GreedySampler
from skipopt.samplers.initial_masks import early_exits
from skipopt.samplers.portfolio import PATIENCE, RECENT, Arm, PortfolioSampler

SPACE = MaskSpace(12)


class Scripted:
    """An arm whose masks are worth what the test says: so much more than the best each time."""

    def __init__(self, visited: MaskRegistry, rise: float, limit: int = 10_000) -> None:
        self.rise = rise
        self.told = 0
        self.left = limit
        self.mine: list[SkipMask] = []
        self._visited = visited

    def ask(self, count: int) -> list[SkipMask]:
        raise AssertionError("auto takes proposals")

    def tell(self, mask: SkipMask, value: float) -> None:
        self._visited.record(mask, value)
        self.told += 1

    def proposals(self) -> Iterator[SkipMask]:
        while self.left and (mask := self._visited.random()) is not None:
            self.left -= 1
            self.mine.append(mask)
            yield mask


class Stage:
    """An `PortfolioSampler` over scripted arms, and the values they bring."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, rises: list[float], limits: list[int] | None = None
    ) -> None:
        self.scripts: list[Scripted] = []
        self.arms: list[Arm] = []

        def arms(_space: MaskSpace, _seed: int, visited: MaskRegistry, _scene: None) -> list[Arm]:
            for rise, limit in zip(rises, limits or [10_000] * len(rises), strict=True):
                script = Scripted(visited, rise, limit)
                self.scripts.append(script)
                self.arms.append(Arm(script, script.proposals))
            return self.arms

        monkeypatch.setattr(portfolio, "_arms", arms)
        monkeypatch.setattr(portfolio, "early_exits", lambda space: [])
        self.sampler = PortfolioSampler(SPACE, 0)
        self.best = 1.0
        self.turns: list[int] = []

    def play(self, batches: int) -> None:
        for _ in range(batches):
            before = [len(script.mine) for script in self.scripts]
            masks = self.sampler.ask(4)
            grown = [len(s.mine) - n for s, n in zip(self.scripts, before, strict=True)]
            self.turns.append(grown.index(max(grown)))
            for mask in masks:
                owner = next(s for s in self.scripts if mask in s.mine)
                self.best += owner.rise
                self.sampler.tell(mask, self.best if owner.rise else 0.5)


def test_trials_go_to_the_arm_that_pays_most(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [0.0, 0.01, 0.05])
    stage.play(20)
    assert stage.turns[0] == 0
    assert stage.turns[1] == 1  # the first that pays is kept to …
    long_passed = stage.turns.count(2)
    stage.play(PATIENCE // 4 + 20)
    assert stage.turns.count(2) > long_passed  # … until the better one is tried
    assert stage.turns[-1] == 2


def test_an_arm_that_has_run_dry_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [0.05, 0.0, 0.0])
    stage.play(5)
    assert stage.turns == [0] * 5
    stage.scripts[0].rise = 0.0
    stage.play(RECENT // 4 + 6)
    assert set(stage.turns[-6:]) == {0, 1, 2}  # none pays: they take turns


def test_every_arm_is_told_of_every_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [0.0, 0.01])
    stage.sampler.tell(SPACE.mask([3]), 1.0)  # asked by nobody: a resumed study
    stage.play(3)
    assert [script.told for script in stage.scripts] == [13, 13]
    assert SPACE.mask([3]) not in stage.scripts[0].mine + stage.scripts[1].mine


def test_a_batch_that_an_arm_cannot_fill_is_filled_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch, [0.0, 0.0], [1, 10_000])
    assert len(stage.sampler.ask(4)) == 4
    assert [len(script.mine) for script in stage.scripts] == [1, 3]


def test_an_opening_arm_has_every_turn_until_it_has_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch, [0.0, 0.05], [12, 10_000])
    stage.arms[0].opening = 1000
    stage.play(2)
    assert stage.turns == [0, 0]  # though the other would pay
    stage.play(4)
    assert stage.turns[-2:] == [1, 1]
    assert stage.arms[0].opening <= 0


def test_an_opening_arm_that_stalls_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [0.01, 0.05])
    stage.arms[0].opening = 8
    stage.play(5)
    assert stage.turns == [0] * 5
    stage.scripts[0].rise = 0.0
    stage.play(2)
    assert stage.turns[-2:] == [0, 0]  # eight in a row must raise nothing
    assert stage.arms[0].opening == 0
    stage.play(RECENT // 4 + 1)
    assert stage.turns[-1] == 1


def test_a_failed_trial_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [0.0])
    first, second = stage.sampler.ask(2)
    stage.sampler.tell(first, 1.0)
    stage.sampler.tell(second, float("inf"))
    assert list(stage.arms[0].gains) == [0.0, 0.0]


def test_early_exits_and_single_skips_open() -> None:
    space = MaskSpace(8)
    masks = PortfolioSampler(space, 0).ask(25)
    empty, every = SkipMask.empty(8), range(8)
    exits = [kept for n in (1, 2, 3, 4) for kept in ({*range(n), 7}, {*range(n)})]
    for mask, kept in zip(masks, exits, strict=False):
        skipped = [layer for layer in every if layer not in kept]
        assert mask == SkipMask.of(8, skipped, skipped)
    assert masks[8:] == [empty, *(empty.flip(i) for i in range(16))]


def worth(mask: SkipMask) -> float:
    """Even positions gain, odd ones lose."""
    return 1.0 + sum(0.1 if i % 2 == 0 else -0.1 for i in mask.skipped)


def high_exits(mask: SkipMask) -> float:
    """The same, but early exits are worth more than all that greedy comes by."""
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
def test_greedy_goes_its_own_way_at_first(value: Callable[[SkipMask], float]) -> None:
    """Whatever early exits are worth, batch by batch."""
    alone = batches(GreedySampler(SPACE, 0), value, 10)
    first, *rest = batches(PortfolioSampler(SPACE, 0), value, 11)
    assert first == [str(mask) for mask in early_exits(SPACE)]
    assert rest == alone


def glanced(monkeypatch: pytest.MonkeyPatch, gains: dict[int, float]) -> PortfolioSampler:
    """With a model that, at a glance, gains so much by each sublayer alone."""

    def climb(space: MaskSpace, seed: int, book: MaskRegistry, _scene: None) -> Arm:
        greedy = GreedySampler(space, seed, book, ranking=lambda: gains)
        return Arm(greedy, greedy.guided, opening=portfolio.CLIMB_STALL * len(space.free))

    monkeypatch.setattr(portfolio, "_climb", climb)
    return PortfolioSampler(SPACE, 0)


GAINS = {i: 0.1 if i % 2 == 0 else -0.1 for i in SPACE.free}
BEST = SPACE.mask(range(0, 24, 2))


def test_a_climb_along_a_ranking_comes_before_leave_one_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twelve sublayers gain: four eighths of the ranking."""
    first, second = batches(glanced(monkeypatch, GAINS), worth, 2)
    assert first == [str(mask) for mask in early_exits(SPACE)]
    assert [len(SkipMask.parse(mask, 12).skipped) for mask in second] == list(range(3, 25, 3))
    assert str(BEST) in second


@pytest.mark.parametrize("value", [worth, high_exits])
def test_after_the_climb_has_stalled_greedy_goes_its_own_way(
    monkeypatch: pytest.MonkeyPatch, value: Callable[[SkipMask], float]
) -> None:
    """It is told of what the climb found only where it comes by it, and asks nothing again."""
    sampler = glanced(monkeypatch, GAINS)
    climbed: list[str] = []
    while str(SkipMask.empty(12)) not in climbed:
        climbed += batches(sampler, value, 1)[0]
    assert len(climbed) <= 8 + 16 + (portfolio.CLIMB_STALL + 1) * len(SPACE.free)
    later = [mask for batch in batches(sampler, value, 4) for mask in batch]
    assert sum("-" not in mask and "," not in mask for mask in climbed + later) >= 24
    assert not set(climbed) & set(later)
    assert sampler._held.keys() - sampler._visited.values.keys()


def test_the_climb_does_not_ask_the_early_exits_of_the_same_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every sublayer seems to gain, the first ones least: a prefix is an early exit."""
    sampler = glanced(monkeypatch, {i: 0.1 + 0.01 * i for i in SPACE.free})
    masks = sampler.ask(16)
    assert len(masks) == len(set(masks)) == 16
    assert SPACE.mask(range(6, 24)) in early_exits(SPACE)  # six eighths of that ranking


def test_a_ranking_that_misleads_does_no_lasting_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = glanced(monkeypatch, {i: -gain for i, gain in GAINS.items()})
    asked = {mask for batch in batches(sampler, worth, 40) for mask in batch}
    assert str(BEST) in asked


def test_masks_that_lose_against_what_was_climbed_to_are_not_asked_by_greedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = glanced(monkeypatch, GAINS)
    monkeypatch.setattr(sampler._visited, "_bound", lambda mask: 0.1 * len(mask.skipped))
    batches(sampler, worth, 2)  # 2.2, above the bound of every mask but those that skip most
    asked = [SkipMask.parse(m, 12) for batch in batches(sampler, worth, 9) for m in batch]
    later = asked[asked.index(SkipMask.empty(12)) :]
    assert all(len(mask.skipped) <= 1 or len(mask.skipped) >= 22 for mask in later)


def test_early_exits_are_told_when_greedy_has_stalled() -> None:
    """From then on the best of them is what the others start from."""
    sampler, exits = PortfolioSampler(SPACE, 0), early_exits(SPACE)
    batches(sampler, high_exits, 10)
    assert sampler._visited.best not in exits
    later = batches(sampler, high_exits, 2 * portfolio.STALL * len(SPACE.free) // 8)
    assert sampler._visited.best == exits[-1]  # the one told first
    assert {str(exits[-1].flip(i)) for i in SPACE.free} & {m for batch in later for m in batch}


def test_an_early_exit_known_already_is_neither_asked_nor_lost() -> None:
    """A resumed study."""
    sampler, known = PortfolioSampler(SPACE, 0), early_exits(SPACE)
    for mask in known:
        sampler.tell(mask, 9.0)
    asked = batches(sampler, worth, 40)
    assert not {str(mask) for mask in known} & {mask for batch in asked for mask in batch}
    assert sampler._visited.best in known


def test_a_failed_early_exit_is_no_trouble() -> None:
    sampler = PortfolioSampler(SPACE, 0)
    batches(sampler, lambda mask: float("nan") if mask in early_exits(SPACE) else worth(mask), 60)
    assert sampler._visited.best == SPACE.mask(range(0, 24, 2))


def test_no_early_exits_where_the_number_is_fixed() -> None:
    space = MaskSpace(6, skip_count=4)
    assert all(len(mask.skipped) == 4 for mask in PortfolioSampler(space, 0).ask(20))
