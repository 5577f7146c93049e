"""The race of finalists, run by made-up contenders on a clock moved by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from timing_fakes import FakeClock, FakeContender

from skipopt.benchmarking.contenders import PLAIN
from skipopt.benchmarking.statistics import Interval
from skipopt.benchmarking.timing import Timer
from skipopt.searching import confirm
from skipopt.searching.confirm import Confirmed

PROMPTS = [[10 * i, 1] for i in range(16)]


class Race:
    """Contenders by name and speedup, each with a spread over prompts of its own."""

    def __init__(self, speedups: dict[str, float], spread: float = 0.1) -> None:
        clock, rng = FakeClock(), Random(0)
        self.calls: list[tuple[str, int]] = []

        def cost(speedup: float, spread: float) -> Callable[[int], float]:
            luck = [1 + rng.uniform(-spread, spread) for _ in range(100)]
            return lambda run: luck[run] / speedup

        plain = FakeContender(PLAIN, clock, cost(1.0, 0.0), self.calls)
        self.everyone: list[Any] = [
            FakeContender(name, clock, cost(speedup, spread), self.calls)
            for name, speedup in speedups.items()
        ]
        self.timer = Timer([plain, *self.everyone], PROMPTS, [8] * len(PROMPTS), clock)

    def run(self, time_is_up: Callable[[], bool] = lambda: False) -> list[str]:
        left = confirm._race(self.timer, self.everyone, time_is_up, lambda: None)
        return [each.name for each in left]

    def decoded(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)


def test_the_slow_leave_early_and_the_near_go_on() -> None:
    race = Race({"fast": 1.5, "near": 1.49, "slow": 1.1, "slowest": 0.7})
    left = race.run()
    assert set(left) <= {"fast", "near"}
    assert race.decoded("slow") <= 2 * confirm.FEWEST_PROMPTS
    assert race.decoded("slowest") == confirm.FEWEST_PROMPTS
    assert race.decoded("fast") >= len(PROMPTS) <= race.decoded("near")
    assert race.decoded(PLAIN) == race.decoded(left[0]), "the denominator is decoded every time"


def test_one_that_is_left_runs_the_prompts_twice() -> None:
    race = Race({"fast": 1.5, "slow": 1.0})
    assert race.run() == ["fast"]
    assert race.decoded("fast") == 2 * len(PROMPTS)


def test_race_ends_as_soon_as_nothing_beats_plain_decoding() -> None:
    race = Race({"bad": 0.8, "worse": 0.6}, spread=0.05)
    assert race.run() == ["bad"]
    assert race.decoded("bad") <= confirm.FEWEST_PROMPTS + 2


def test_time_ends_the_race_after_a_few_prompts() -> None:
    race = Race({"one": 1.5, "two": 1.5})
    assert set(race.run(lambda: True)) == {"one", "two"}
    assert race.decoded("one") == confirm.FEWEST_PROMPTS


@pytest.mark.parametrize("seed", range(20))
def test_the_best_is_rarely_sent_away(seed: int) -> None:
    """Little doubt at each prompt adds up over many: a few in a hundred races may fail."""
    rng = Random(seed)
    speedups = {f"c{i}": rng.uniform(1.0, 1.3) for i in range(6)} | {"best": 1.4}
    assert "best" in Race(speedups, spread=0.2).run()


def confirmed(method: str, gain: float) -> Confirmed:
    unit = Interval(1.0, 1.0, 1.0)
    return Confirmed(0, method, gain, unit, 0.5, 2.0, 10.0, 10.0, "exact")


@pytest.mark.parametrize(
    ("gains", "winner"),
    [
        ({"cascade": 0.300, "layer-skip": 0.295, "blockwise": 0.1}, "layer-skip"),
        ({"cascade": 0.300, "layer-skip": 0.295, "prompt-lookup": 0.293}, "prompt-lookup"),
        ({"cascade": 0.300, "layer-skip": 0.280, "prompt-lookup": 0.2}, "cascade"),
    ],
)
def test_ties_go_to_the_simpler_method(gains: dict[str, float], winner: str) -> None:
    ranked: Sequence[Confirmed] = [confirmed(name, gain) for name, gain in gains.items()]
    found = confirm._simplest_of_the_best(ranked)
    assert found[0].method == winner
    assert sorted(c.gain for c in found) == sorted(gains.values())
    rest = [c.gain for c in found[1:]]
    assert rest == sorted(rest, reverse=True)
