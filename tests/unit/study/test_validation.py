"""Elimination of fake runners on a clock set by hand, and the ranking of results."""

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
from skipopt.study.config import SearchConfig
from skipopt.study.elimination import eliminate, tied_with_fastest
from skipopt.study.time_plan import Deadline
from skipopt.study.to_profile import (
    BaselineResult,
    SearchCost,
    SearchResult,
    UsedPrompts,
    baselines,
    to_profile,
)
from skipopt.study.validation import Validated, best_lossless, no_time_for_another, rank

CONFIG = SearchConfig()
PROMPTS = UsedPrompts("sha256:0")
FIRST = CONFIG.min_validation_prompts
TRIAL = Trial(SkipMask.of(4, [1], []), 1.2, Prediction(1.2, (1.2,), 3, 0.0, 0.9, 0.9))
PROMPTS = [[10 * i, 1] for i in range(16)]


class Race:
    """Runners with given speedups, whose times vary over prompts by `spread`."""

    def __init__(
        self,
        speedups: dict[str, float],
        spread: float | dict[str, float] = 0.1,
        seed: int = 0,
        prompts: int = 16,
    ) -> None:
        clock, rng = FakeClock(), Random(seed)
        spreads = spread if isinstance(spread, dict) else dict.fromkeys(speedups, spread)
        self.calls: list[tuple[str, int]] = []

        def cost(speedup: float, spread: float) -> Callable[[int], float]:
            luck = [1 + rng.uniform(-spread, spread) for _ in range(100)]
            return lambda run: luck[run] / speedup

        self.names = list(speedups)
        runners: list[Any] = [
            FakeRunner(PLAIN, clock, cost(1.0, 0.0), self.calls),
            *(FakeRunner(n, clock, cost(s, spreads[n]), self.calls) for n, s in speedups.items()),
        ]
        self.timer = Timer(runners, PROMPTS[:prompts], [8] * prompts, clock)

    def run(self, time_is_up: Callable[[], bool] = lambda: False) -> list[str]:
        kinds = {name: name.rstrip("'") for name in self.names}  # fast and fast': two masks
        return eliminate(self.timer, kinds, CONFIG, time_is_up, lambda: None)

    def decoded(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)

    def tied(self) -> list[str]:
        """The tied runners after every prompt was decoded once."""
        self.timer.run(1)
        return tied_with_fastest(self.timer.samples, self.names, CONFIG.tie_alpha)


def test_slow_runners_are_dropped_early() -> None:
    race = Race({"fast": 1.5, "near": 1.49, "slow": 1.1, "slowest": 0.7})
    left = race.run()
    assert set(left) <= {"fast", "near"}
    assert race.decoded("slow") <= 2 * FIRST
    assert race.decoded("slowest") == FIRST
    assert race.decoded("fast") >= len(PROMPTS) <= race.decoded("near")
    assert race.decoded(PLAIN) == race.decoded(left[0]), "the denominator is decoded every time"


@pytest.mark.parametrize("prompts", [2, FIRST, 16])
def test_no_prompt_is_decoded_after_the_time_is_up(prompts: int) -> None:
    race = Race({"fast": 1.5, "near": 1.49}, prompts=prompts)
    race.run(time_is_up=lambda: True)
    assert race.decoded("fast") == 2


def test_only_the_fastest_mask_of_a_kind_is_kept() -> None:
    race = Race({"mask": 1.5, "mask'": 1.4, "copy": 1.45, "mask''": 1.42}, spread=0.01)
    assert race.run() == ["mask"], "the slower copy does not win over the fastest mask"
    for name in ("mask'", "mask''"):
        assert race.decoded(name) == FIRST


def test_a_gain_below_two_percent_is_dropped_even_where_nothing_is_surely_faster() -> None:
    race = Race({"noisy": 1.3, "none": 1.0}, spread={"noisy": 0.6, "none": 0.001})
    race.run()
    assert race.decoded("noisy") > FIRST
    assert race.decoded("none") == FIRST


def test_the_last_runner_decodes_the_prompts_twice() -> None:
    race = Race({"fast": 1.5, "slow": 1.0})
    assert race.run() == ["fast"]
    assert race.decoded("fast") == 2 * len(PROMPTS)


def test_validation_ends_when_no_runner_is_faster_than_plain_decoding() -> None:
    race = Race({"bad": 0.8, "worse": 0.6}, spread=0.05)
    assert race.run() == ["bad"]
    assert race.decoded("bad") <= FIRST + 2


def test_no_prompt_begins_that_would_end_too_late() -> None:
    """Every prompt takes a second; the slowest so far is what the next one is taken to need."""
    clock = FakeClock()
    late = no_time_for_another(Deadline(clock.now + 5.5, clock))
    answers = []
    for seconds in (1.0, 1.0, 1.5, 0.5):
        clock.now += seconds
        answers.append(late())
    assert answers == [False, False, False, False]
    clock.now += 0.4
    assert late(), "1.1 s are left, and a prompt may take 1.5 s"


@pytest.mark.parametrize("seed", range(20))
def test_the_best_is_rarely_dropped(seed: int) -> None:
    """`drop_alpha` per prompt adds up: the best is dropped in a few of a hundred races."""
    rng = Random(seed)
    speedups = {f"c{i}": rng.uniform(1.0, 1.3) for i in range(6)} | {"best": 1.4}
    assert "best" in Race(speedups, spread=0.2).run()


def test_equal_runners_are_mostly_tied_and_slow_ones_never() -> None:
    """One of two equal runners is called slower in about 2 · tie_alpha of the races."""
    speedups = {"one": 1.5, "other": 1.5, "slow": 1.2}
    races = [Race(speedups, 0.2, seed).tied() for seed in range(20)]
    assert sum(set(tied) == {"one", "other"} for tied in races) >= 20 * (1 - 3 * CONFIG.tie_alpha)
    assert not any("slow" in tied for tied in races)


def test_two_percent_are_significant_where_prompts_agree() -> None:
    assert Race({"fast": 1.50, "near": 1.47}, 0.001).tied() == ["fast"]


def test_a_single_runner_is_tied_with_itself() -> None:
    assert Race({"only": 1.2}).tied() == ["only"]


def test_one_prompt_is_no_evidence() -> None:
    race = Race({"fast": 2.0, "slow": 1.0})
    next(race.timer.iter_repeat())
    tied = tied_with_fastest(race.timer.samples, race.names, CONFIG.tie_alpha)
    assert tied == ["fast", "slow"]


def test_a_tie_needs_less_evidence_than_dropping() -> None:
    """Some runners that were not dropped are still significantly slower than the fastest."""
    near = {"fast": 1.5, "near": 1.46}
    races = [Race(near, 0.15, seed) for seed in range(20)]
    both = [race for race in races if len(race.run()) == 2]
    tied = [
        len(tied_with_fastest(race.timer.samples, race.names, CONFIG.tie_alpha)) for race in both
    ]
    assert set(tied) == {1, 2}


def validated(
    method: str,
    gain: float,
    tied: bool = True,
    low: float = 1.01,
    index: int = 0,
    lossless: Any = "exact",
) -> Validated:
    interval = Interval(max(1.02, low), low, 1.5)
    return Validated(index, method, gain, tied, interval, interval, 0.5, 2.0, 10.0, 10.0, lossless)


def ranked(results: list[Validated]) -> list[Validated]:
    return rank(results, CONFIG.methods)


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
    results = [validated(name, gain) for name, gain in tied.items()]
    results += [validated(name, gain, tied=False) for name, gain in behind.items()]
    found = ranked(results)
    assert found[0].method == winner
    assert [c.tied for c in found] == [True] * len(tied) + [False] * len(behind)
    rest = [c.mean_log_speedup for c in found[len(tied) :]]
    assert rest == sorted(rest, reverse=True)


def test_of_one_method_the_fastest_mask_wins() -> None:
    masks = [validated("layer-skip", gain, index=i) for i, gain in enumerate((0.2, 0.3, 0.25))]
    found = ranked([*masks, validated("cascade", 0.4)])
    assert [c.index for c in found if c.method == "layer-skip"] == [1, 2, 0]
    assert found[0].index == 1


def test_simplicity_does_not_turn_speculation_off() -> None:
    """A simple method that may be slower than plain decoding loses to one that is faster."""
    unsure = validated("prompt-lookup", 0.25, low=0.97)
    sure = [validated("cascade", 0.30), validated("layer-skip", 0.28)]
    assert [c.method for c in ranked([unsure, *sure])] == [
        "layer-skip",
        "cascade",
        "prompt-lookup",
    ]
    unsure_all = [validated("cascade", 0.05, low=0.99), validated("layer-skip", 0.01, low=0.98)]
    assert ranked(unsure_all)[0].method == "layer-skip"


def test_a_result_that_is_not_lossless_does_not_win() -> None:
    failed = validated("cascade", 0.5, lossless="failed")
    exact = validated("layer-skip", 0.1, tied=False)
    assert best_lossless([failed, exact]) is exact
    assert best_lossless([failed]) is failed


def test_baselines_are_ahead_tied_or_behind() -> None:
    results = [
        validated("layer-skip", 0.20),
        validated("layer-skip", 0.19, index=1),
        validated("cascade", 0.25),
        validated("blockwise", 0.15),
        validated("prompt-lookup", 0.01, tied=False),
    ]
    winner, *_ = in_order = ranked(results)
    assert winner.method == "layer-skip"
    found = baselines(winner, in_order, 2 * [TRIAL])
    assert {each.method: each.vs_winner for each in found} == {
        "cascade": "ahead",
        "blockwise": "tied",
        "prompt-lookup": "behind",
    }


def test_a_baseline_has_the_results_of_its_best_mask() -> None:
    winner = validated("prompt-lookup", 0.2)
    others = [validated("layer-skip", 0.3, low=1.2), validated("layer-skip", 0.1, tied=False)]
    (found,) = baselines(winner, ranked([*others, winner]), [TRIAL])
    assert found == BaselineResult("layer-skip", others[0].speedup, "ahead")


def test_baselines_are_kept_in_the_profile() -> None:
    winner, *_ = in_order = [
        validated("prompt-lookup", 0.2),
        validated("cascade", 0.1, tied=False),
    ]
    result = SearchResult(TRIAL, winner, baselines=baselines(winner, in_order, 2 * [TRIAL]))
    profile = to_profile(
        tiny_target(), CONFIG, UsedPrompts("sha256:0"), SearchCost(1, 1.0), result
    )
    assert profile.measured is not None
    assert profile.measured.vs_winner == {"cascade": "behind"}
    assert Profile.parse(profile.to_yaml("p.yaml"), "p.yaml").measured == profile.measured


def test_a_method_without_a_mask_leaves_the_best_mask_as_candidate() -> None:
    result = SearchResult(TRIAL, validated("prompt-lookup", 0.2))
    profile = to_profile(
        tiny_target(), CONFIG, UsedPrompts("sha256:0"), SearchCost(1, 1.0), result
    )
    assert profile.mask is None
    assert profile.candidate is not None
    assert profile.candidate.attention == (1,)
    assert profile.candidate.predicted is not None
    assert profile.candidate.predicted.speedup == 1.2
