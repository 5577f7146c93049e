"""The race of finalists, run by made-up contenders on a clock moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from support.timing_fakes import FakeClock, FakeRunner, tiny_target

from skipopt.bench.runners import PLAIN
from skipopt.bench.timing import Timer
from skipopt.cost_model.prediction import Prediction
from skipopt.masks import SkipMask
from skipopt.profile import Profile
from skipopt.stats import Interval
from skipopt.storage.base import Trial
from skipopt.study import validation
from skipopt.study.config import SearchConfig
from skipopt.study.to_profile import SearchCost, baseline_results, profile_of
from skipopt.study.validation import Validated

TRIAL = Trial(SkipMask.of(4, [1], []), 1.2, Prediction(1.2, (1.2,), 3, 0.0, 0.9, 0.9))

PROMPTS = [[10 * i, 1] for i in range(16)]


class Race:
    """Contenders by name and speedup, each with a spread over prompts of its own."""

    def __init__(self, speedups: dict[str, float], spread: float = 0.1, seed: int = 0) -> None:
        clock, rng = FakeClock(), Random(seed)
        self.calls: list[tuple[str, int]] = []

        def cost(speedup: float, spread: float) -> Callable[[int], float]:
            luck = [1 + rng.uniform(-spread, spread) for _ in range(100)]
            return lambda run: luck[run] / speedup

        plain = FakeRunner(PLAIN, clock, cost(1.0, 0.0), self.calls)
        self.everyone: list[Any] = [
            FakeRunner(name, clock, cost(speedup, spread), self.calls)
            for name, speedup in speedups.items()
        ]
        for each in self.everyone:
            each.kind = each.name.rstrip("'")  # fast and fast' are two masks of one method
        self.timer = Timer([plain, *self.everyone], PROMPTS, [8] * len(PROMPTS), clock)

    def run(self, time_is_up: Callable[[], bool] = lambda: False) -> list[str]:
        left = validation._race(self.timer, self.everyone, time_is_up, lambda: None)
        return [each.name for each in left]

    def decoded(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)


def test_the_slow_leave_early_and_the_near_go_on() -> None:
    race = Race({"fast": 1.5, "near": 1.49, "slow": 1.1, "slowest": 0.7})
    left = race.run()
    assert set(left) <= {"fast", "near"}
    assert race.decoded("slow") <= 2 * validation.FEWEST_PROMPTS
    assert race.decoded("slowest") == validation.FEWEST_PROMPTS
    assert race.decoded("fast") >= len(PROMPTS) <= race.decoded("near")
    assert race.decoded(PLAIN) == race.decoded(left[0]), "the denominator is decoded every time"


def test_of_masks_of_one_kind_the_fastest_goes_on() -> None:
    race = Race({"mask": 1.5, "mask'": 1.4, "copy": 1.45, "mask''": 1.42}, spread=0.01)
    assert set(race.run()) <= {"mask", "copy"}
    for name in ("mask'", "mask''"):
        assert race.decoded(name) == validation.FEWEST_PROMPTS


def test_one_that_is_left_runs_the_prompts_twice() -> None:
    race = Race({"fast": 1.5, "slow": 1.0})
    assert race.run() == ["fast"]
    assert race.decoded("fast") == 2 * len(PROMPTS)


def test_race_ends_as_soon_as_nothing_beats_plain_decoding() -> None:
    race = Race({"bad": 0.8, "worse": 0.6}, spread=0.05)
    assert race.run() == ["bad"]
    assert race.decoded("bad") <= validation.FEWEST_PROMPTS + 2


def test_time_ends_the_race_after_a_few_prompts() -> None:
    race = Race({"one": 1.5, "two": 1.5})
    assert set(race.run(lambda: True)) == {"one", "two"}
    assert race.decoded("one") == validation.FEWEST_PROMPTS


@pytest.mark.parametrize("seed", range(20))
def test_the_best_is_rarely_sent_away(seed: int) -> None:
    """Little doubt at each prompt adds up over many: a few in a hundred races may fail."""
    rng = Random(seed)
    speedups = {f"c{i}": rng.uniform(1.0, 1.3) for i in range(6)} | {"best": 1.4}
    assert "best" in Race(speedups, spread=0.2).run()


def tied_of(race: Race) -> set[str]:
    """After every prompt once."""
    race.timer.run(1)
    return {each.name for each in validation._tied(race.timer.samples, race.everyone)}


def test_equals_are_mostly_tied_and_the_slow_never_are() -> None:
    """Whoever is behind by chance is called slower in about 2 BEARING of the races."""
    speedups = {"one": 1.5, "other": 1.5, "slow": 1.2}
    races = [tied_of(Race(speedups, 0.2, seed)) for seed in range(20)]
    assert sum(tied == {"one", "other"} for tied in races) >= 20 * (1 - 3 * validation.BEARING)
    assert not any("slow" in tied for tied in races)


def test_two_percent_less_is_surely_slower_where_prompts_agree() -> None:
    """It is evidence that counts, and not how far apart they are."""
    assert tied_of(Race({"fast": 1.50, "near": 1.47}, 0.001)) == {"fast"}


def test_one_that_stands_alone_is_tied_with_itself() -> None:
    assert tied_of(Race({"only": 1.2})) == {"only"}


def test_no_evidence_is_a_tie() -> None:
    """One prompt says nothing of spread."""
    race = Race({"fast": 2.0, "slow": 1.0})
    next(race.timer.iter_repeat())
    tied = validation._tied(race.timer.samples, race.everyone)
    assert [each.name for each in tied] == ["fast", "slow"]


def test_the_end_asks_for_less_proof_than_a_farewell() -> None:
    """Some of those that ran to the end are told from the fastest nevertheless."""
    near = {"fast": 1.5, "near": 1.46}
    races = [Race(near, 0.15, seed) for seed in range(20)]
    both = [race for race in races if len(race.run()) == 2]
    tied = [len(validation._tied(race.timer.samples, race.everyone)) for race in both]
    assert set(tied) == {1, 2}


def confirmed(
    method: str, gain: float, tied: bool = True, low: float = 1.01, index: int = 0
) -> Validated:
    unit = Interval(max(1.02, low), low, 1.5)
    return Validated(index, method, gain, tied, unit, 0.5, 2.0, 10.0, 10.0, "exact")


@pytest.mark.parametrize(
    ("tied", "behind", "winner"),
    [
        ({"cascade": 0.30, "layer-skip": 0.25}, {"blockwise": 0.1}, "layer-skip"),
        ({"cascade": 0.30, "layer-skip": 0.295, "prompt-lookup": 0.1}, {}, "prompt-lookup"),
        ({"cascade": 0.30, "blockwise": 0.29}, {"layer-skip": 0.28}, "blockwise"),
        ({"cascade": 0.30}, {"layer-skip": 0.299, "prompt-lookup": 0.299}, "cascade"),
    ],
)
def test_ties_go_to_the_simpler_method(
    tied: dict[str, float], behind: dict[str, float], winner: str
) -> None:
    everyone = [confirmed(name, gain) for name, gain in tied.items()]
    everyone += [confirmed(name, gain, tied=False) for name, gain in behind.items()]
    found = validation._simplest_first(everyone)
    assert found[0].method == winner
    assert [c.tied for c in found] == [True] * len(tied) + [False] * len(behind)
    rest = [c.gain for c in found[len(tied) :]]
    assert rest == sorted(rest, reverse=True)


def test_of_one_method_the_fastest_mask_wins() -> None:
    masks = [confirmed("layer-skip", gain, index=i) for i, gain in enumerate((0.2, 0.3, 0.25))]
    found = validation._simplest_first([*masks, confirmed("cascade", 0.4)])
    assert [c.index for c in found if c.method == "layer-skip"] == [1, 2, 0]
    assert found[0].index == 1


def test_simplicity_does_not_turn_speculation_off() -> None:
    """A simple method that may be slower than plain decoding gives way to one that is faster."""
    unsure = confirmed("prompt-lookup", 0.25, low=0.97)
    sure = [confirmed("cascade", 0.30), confirmed("layer-skip", 0.28)]
    assert [c.method for c in validation._simplest_first([unsure, *sure])] == [
        "layer-skip",
        "cascade",
        "prompt-lookup",
    ]
    nobody = [confirmed("cascade", 0.05, low=0.99), confirmed("layer-skip", 0.01, low=0.98)]
    assert validation._simplest_first(nobody)[0].method == "layer-skip"


def test_a_profile_names_who_was_ahead_tied_and_behind() -> None:
    everyone = [
        confirmed("layer-skip", 0.20),
        confirmed("layer-skip", 0.19, index=1),
        confirmed("cascade", 0.25),
        confirmed("blockwise", 0.15),
        confirmed("prompt-lookup", 0.01, tied=False),
    ]
    winner, *_ = ranked = validation._simplest_first(everyone)
    assert winner.method == "layer-skip"
    found = baseline_results(winner, ranked, 2 * [TRIAL])
    assert found["standings"] == {
        "cascade": "ahead",
        "blockwise": "tied",
        "prompt-lookup": "behind",
    }
    assert found["others"].keys() == found["standings"].keys()


def test_of_two_masks_of_a_rival_the_better_one_is_named() -> None:
    winner = confirmed("prompt-lookup", 0.2)
    rivals = [confirmed("layer-skip", 0.3, low=1.2), confirmed("layer-skip", 0.1, tied=False)]
    found = baseline_results(winner, validation._simplest_first([*rivals, winner]), [TRIAL])
    assert found["standings"] == {"layer-skip": "ahead"}
    assert found["others"]["layer-skip"]["low"] == 1.2


def test_standings_reach_the_profile_and_its_file() -> None:
    target = tiny_target()
    winner, *_ = ranked = [confirmed("prompt-lookup", 0.2), confirmed("cascade", 0.1, tied=False)]
    rivals = baseline_results(winner, ranked, 2 * [TRIAL])
    spent = SearchCost(1, 1.0)
    profile = profile_of(target, SearchConfig(), "sha256:0", spent, TRIAL, winner, None, rivals)
    assert profile.measured is not None
    assert profile.measured.standings == {"cascade": "behind"}
    assert Profile.parse(profile.to_yaml("p.yaml"), "p.yaml").measured == profile.measured
