"""Elimination of fake runners on a clock set by hand, and the ranking of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from random import Random
from statistics import median
from typing import Any

import pytest
from support.timing_fakes import FakeClock, FakeRunner, tiny_target

from skipopt.cost_model.prediction import Prediction
from skipopt.draft_config import DraftConfig
from skipopt.errors import ProfileError
from skipopt.masks import SkipMask
from skipopt.measurement.runners import PLAIN
from skipopt.measurement.threshold import Baseline
from skipopt.measurement.timing import Timer
from skipopt.methods import parse_method
from skipopt.profile import Profile
from skipopt.reporting.profiles import profile_text
from skipopt.stats import Interval
from skipopt.storage.base import Trial
from skipopt.study.config import SearchConfig
from skipopt.study.elimination import Elimination, Entry, cannot_pay, tied_with_fastest
from skipopt.study.expected_speedup import Expected
from skipopt.study.time_plan import NEVER, Deadline
from skipopt.study.to_profile import (
    BaselineResult,
    SearchCost,
    SearchResult,
    UsedPrompts,
    baselines,
    best_mask,
    to_profile,
)
from skipopt.study.validation import Validated, best_lossless, drafted_by, may_win, rank, warm_up

CONFIG = SearchConfig()
PROMPTS = UsedPrompts("sha256:0")
FIRST = CONFIG.min_validation_prompts
TRIAL = Trial(SkipMask.of(4, [1], []), 1.2, Prediction(1.2, (1.2,), 3, 0.0, 0.9, 0.9))
PROMPTS = [[10 * i, 1] for i in range(16)]


def prediction(speedup: float | None, *texts: float) -> Prediction | None:
    """Of the same speedup on all texts, or of the given ones."""
    if speedup is None:
        return None
    return Prediction(speedup, texts or (speedup, speedup), 3, 0.0, 0.9, 0.9)


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
        self.clock = clock
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

    def run(
        self, deadline: Deadline = NEVER, predicted: dict[str, float] | None = None
    ) -> list[str]:
        entries = {
            name: Entry(name.rstrip("'"), prediction((predicted or {}).get(name)))  # two masks
            for name in self.names
        }
        return Elimination(self.timer, entries, CONFIG, deadline, lambda: None).run()

    def seconds_left(self, seconds: float) -> Deadline:
        return Deadline(self.clock.now + seconds, self.clock)

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
def test_two_prompts_are_decoded_however_short_the_time_is(prompts: int) -> None:
    """By plain decoding and the best prediction."""
    race = Race({"fast": 1.5, "near": 1.49}, prompts=prompts)
    assert race.run(race.seconds_left(-1), {"fast": 1.2, "near": 1.4}) == ["near"]
    assert race.decoded(PLAIN) == race.decoded("near") == 2
    assert race.decoded("fast") == 0


def test_nothing_begins_that_would_end_too_late() -> None:
    """A plain text takes 8.5 s, the other two 6 s: 20.5 s for each prompt."""
    race = Race({"one": 8 / 5.5, "other": 8 / 5.5}, spread=0.0)
    deadline = race.seconds_left(3 * 20.5 + 3)
    race.run(deadline)
    assert race.decoded("one") == race.decoded("other") == race.decoded(PLAIN) == 3
    assert 0 <= deadline.left < 20.5


def test_a_machine_that_slows_down_midway_is_noticed_within_a_prompt() -> None:
    """From the fourth prompt on, everything takes five times as long."""
    race = Race({"one": 1.5, "other": 1.45}, spread=0.0)

    def slowed(cost: Callable[[int], float]) -> Callable[[int], float]:
        return lambda run: cost(run) * (5 if run >= 3 else 1)

    for runner in race.timer.runners:
        assert isinstance(runner, FakeRunner)
        runner.cost = slowed(runner.cost)
    deadline = race.seconds_left(5 * 22.0)
    race.run(deadline)
    longest = 5 * 8 + 0.5
    assert deadline.left > -longest, "at most what was being decoded ends late"
    assert {sample.prompt for sample in race.timer.samples} <= {0, 1, 2, 3}
    counts = dict.fromkeys((PLAIN, "one", "other"), 0)
    for sample in race.timer.samples:
        counts[sample.runner] += 1
    assert len(set(counts.values())) == 1, "samples of a prompt that not all decoded are dropped"


def test_only_as_many_runners_warm_up_as_can_decode_two_prompts_in_time() -> None:
    """A warm-up takes 5 s; after four, each of five would decode two prompts: 55 s are needed."""
    race = Race({"a": 1.5, "b": 1.4, "c": 1.3, "d": 1.2})

    def warmed(seconds: float) -> list[str]:
        race.timer.runners = list(everyone)
        warm_up(race.timer, race.seconds_left(seconds), lambda: None)
        return [runner.name for runner in race.timer.running]

    everyone = race.timer.runners
    for runner in everyone:
        monkey: Any = runner
        monkey.warm_up = lambda *_: setattr(race.clock, "now", race.clock.now + 5)
    assert warmed(0) == [PLAIN, "a"], "two at least"
    assert warmed(74) == [PLAIN, "a", "b", "c"]
    assert warmed(75) == [PLAIN, "a", "b", "c", "d"]


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


def test_validation_ends_when_more_texts_would_not_show_a_gain() -> None:
    """Even where nothing is significantly below the least gain."""

    def prompts_decoded(speedup: float) -> list[int]:
        races = [Race({"only": speedup}, spread=0.1, seed=seed) for seed in range(8)]
        for race in races:
            race.run()
        return [race.decoded(PLAIN) for race in races]

    assert median(prompts_decoded(1.0)) < 1.5 * len(PROMPTS)
    assert median(prompts_decoded(1.06)) == 2 * len(PROMPTS)


@pytest.mark.parametrize(
    ("speedup", "deviation", "done", "hopeless"),
    [
        (0.99, 0.03, 0.5, True),
        (1.01, 0.03, 0.5, False),
        (0.99, 0.03, 0.25, False),  # it may still rise by two deviations
        (0.95, 0.03, 0.25, True),
        (1.05, 0.03, 1.0, True),  # all is known: the interval contains 1
        (1.07, 0.03, 1.0, False),
    ],
)
def test_what_cannot_pay_any_more(
    speedup: float, deviation: float, done: float, hopeless: bool
) -> None:
    assert cannot_pay(Expected(log(speedup), deviation), done) == hopeless


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


@pytest.mark.slow
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
    measured: float | None = None,
    index: int = 0,
    lossless: Any = "exact",
) -> Validated:
    """A result that is expected to gain `gain`, and was measured to (`measured`)."""
    measured, interval = gain if measured is None else measured, Interval(1.2, 1.1, 1.5)
    return Validated(
        index=index,
        method=method,
        expected=Expected(gain, 0.01),
        mean_log_speedup=measured,
        dropped=not tied,
        tied=tied,
        speedup=interval,
        end_to_end=interval,
        acceptance_rate=0.5,
        mean_acceptance_length=2.0,
        plain_tokens_per_second=10.0,
        tokens_per_second=12.0,
        lossless=lossless,
        first_text=Interval(1.1, 1.0, 1.2),
        prediction=prediction(1.15),
    )


def test_what_is_expected_to_be_fastest_wins_and_what_was_dropped_comes_last() -> None:
    results = [
        validated("suffix", 0.28, measured=0.4),
        validated("layer-skip", 0.27),
        validated("cascade", 0.30, measured=0.32),
        validated("blockwise", 0.35, tied=False),
    ]
    assert [each.method for each in rank(results)] == [
        "cascade",
        "suffix",
        "layer-skip",
        "blockwise",
    ]


def test_what_is_predicted_to_lose_is_not_decoded() -> None:
    entries = {
        "fast": Entry("a", prediction(1.3)),
        "behind": Entry("b", prediction(1.1)),
        "unsure": Entry("c", prediction(1.1, 0.7, 0.9, 2.0)),
        "loses": Entry("d", prediction(0.98)),
        "unknown": Entry("e"),
    }
    assert may_win(entries, CONFIG) == ["fast", "unsure", "unknown"]
    slow = {"loses": Entry("a", prediction(0.99)), "more": Entry("b", prediction(0.9))}
    assert may_win(slow, CONFIG) == []
    matchness = SearchConfig(objective="matchness", skip_ratio=0.4)
    assert may_win(slow, matchness) == ["loses", "more"]


def test_of_the_masks_of_a_kind_the_prediction_counts_too() -> None:
    """Both are measured alike; the second is predicted to be far better."""
    race = Race({"mask": 1.3, "mask'": 1.295}, spread=0.1, seed=3)
    assert race.run(predicted={"mask": 1.0, "mask'": 1.5}) == ["mask'"]


def test_a_result_that_is_not_lossless_does_not_win() -> None:
    failed = validated("cascade", 0.5, lossless="failed")
    exact = validated("layer-skip", 0.1, tied=False)
    assert best_lossless([failed, exact]) is exact
    assert best_lossless([failed]) is failed


@pytest.mark.parametrize(
    ("candidates", "cascade", "copies"),
    [
        (["none", "none"], [], 0),
        (["attn 1", "none int8"], [0, 1], 0),
        (["none int8", "attn 1 int8", "attn 1"], [0, 2], 1),
        (["none int8", "none int4", "none window=9", "attn 2"], [0, 1], 3),
    ],
)
def test_other_methods_draft_as_the_best_candidates_of_two_draft_configs_do(
    candidates: list[str], cascade: list[int], copies: int
) -> None:
    target = tiny_target()
    profiles = []
    for text in candidates:
        skipped = [int(text.split()[1])] if text.startswith("attn") else []
        config = text.split()[-1] if len(text.split()) > 1 + len(skipped) else "none"
        mask = SkipMask.of(target.depth, skipped)
        draft_config = DraftConfig.parse(config)
        profiles.append(Profile.build(target, mask, gamma=2, tau=0, draft_config=draft_config))
    assert drafted_by(parse_method("cascade"), profiles) == cascade
    assert drafted_by(parse_method("suffix"), profiles) == [copies]


@pytest.mark.parametrize("skipped", [[], [1]])
def test_a_method_that_won_with_a_draft_config_keeps_it_in_the_profile(skipped: list[int]) -> None:
    int8 = DraftConfig(weight_bits=8)
    trial = Trial(SkipMask.of(4, skipped), 1.2, TRIAL.prediction, int8)
    winner, *_ = in_order = [validated("cascade", 0.2), validated("layer-skip", 0.1)]
    result = SearchResult(trial, winner, baselines=baselines(winner, in_order, 2 * [trial]))
    profile = to_profile(
        tiny_target(), CONFIG, UsedPrompts("sha256:0"), SearchCost(1, 1.0), result
    )
    assert profile.drafting.method == "cascade"
    assert (profile.draft_config, profile.skip_mask) == (int8, trial.mask)
    assert profile.measured is not None
    assert profile.measured.vs_winner == {"layer-skip:quant=int8": "tied"}


def test_baselines_are_ahead_tied_or_behind() -> None:
    results = [
        validated("layer-skip", 0.20),
        validated("layer-skip", 0.19, index=1),
        validated("cascade", 0.18, measured=0.25),
        validated("blockwise", 0.15),
        validated("suffix", 0.01, tied=False),
    ]
    winner, *_ = in_order = rank(results)
    assert winner.method == "layer-skip"
    found = baselines(winner, in_order, 2 * [TRIAL])
    assert {each.method: each.vs_winner for each in found} == {
        "cascade": "ahead",
        "blockwise": "tied",
        "suffix": "behind",
    }


def test_a_baseline_has_the_results_of_its_best_mask() -> None:
    winner = validated("suffix", 0.2)
    others = [
        validated("layer-skip", 0.15, measured=0.3),
        validated("layer-skip", 0.1, tied=False),
    ]
    (found,) = baselines(winner, rank([*others, winner]), [TRIAL])
    assert found == BaselineResult("layer-skip", others[0].speedup, "ahead", predicted=1.15)


def test_baselines_are_kept_in_the_profile() -> None:
    winner, *_ = in_order = [
        validated("suffix", 0.2),
        validated("cascade", 0.1, tied=False),
    ]
    result = SearchResult(TRIAL, winner, baselines=baselines(winner, in_order, 2 * [TRIAL]))
    profile = to_profile(
        tiny_target(), CONFIG, UsedPrompts("sha256:0"), SearchCost(1, 1.0), result
    )
    assert profile.measured is not None
    assert profile.measured.vs_winner == {"cascade": "behind"}
    assert Profile.parse(profile.to_yaml("p.yaml"), "p.yaml").measured == profile.measured


@pytest.mark.parametrize("method", ["layer-skip", "suffix"])
def test_where_the_winner_skips_nothing_the_best_mask_is_told(method: str) -> None:
    found = best_mask([replace(TRIAL, mask=SkipMask.empty(4)), TRIAL])
    assert found == TRIAL
    bits = DraftConfig.parse("int8")
    trial = replace(TRIAL, mask=SkipMask.empty(4), draft_config=bits)
    result = SearchResult(trial, validated(method, 0.2), candidate=found)
    profile = to_profile(
        tiny_target(), CONFIG, UsedPrompts("sha256:0"), SearchCost(1, 1.0), result
    )
    assert profile.candidate is not None
    assert profile.candidate.attention == (1,)
    assert profile.candidate.quant is None
    assert profile.candidate.predicted is not None
    assert profile.candidate.predicted.speedup == 1.2
    again = Profile.parse(profile.to_yaml("p.yaml"), "p.yaml")
    assert again == profile
    own = method == "layer-skip"  # drafts as the winner did, not as the candidate
    assert bool(again.skip_mask.skipped) != own
    assert bool(again.draft_config) == own
    assert again.at(0).mask == again.skip_mask
    assert "best mask found, not used: γ =" in str(profile_text(again))
    masked = to_profile(
        tiny_target(),
        CONFIG,
        UsedPrompts("sha256:0"),
        SearchCost(1, 1.0),
        SearchResult(TRIAL, validated("layer-skip", 0.2), candidate=found),
    )
    assert masked.candidate is None
    text = masked.to_yaml("p.yaml") + "candidate: {attention: [1], mlp: [], gamma: 2, tau: 0.0}\n"
    with pytest.raises(ProfileError, match=r"candidate is .*null: the profile has a mask"):
        Profile.parse(text, "p.yaml")


def test_a_method_without_a_mask_leaves_the_best_mask_as_candidate() -> None:
    result = SearchResult(TRIAL, validated("suffix", 0.2))
    profile = to_profile(
        tiny_target(), CONFIG, UsedPrompts("sha256:0"), SearchCost(1, 1.0), result
    )
    assert profile.mask is None
    assert profile.candidate is not None
    assert profile.candidate.attention == (1,)
    assert profile.candidate.predicted is not None
    assert profile.candidate.predicted.speedup == 1.2
    assert profile.predicted is not None
    assert profile.predicted.speedup == 1.15, "of suffix"


def test_the_profile_says_what_to_expect_on_other_text() -> None:
    result = SearchResult(TRIAL, validated("layer-skip", 0.2, measured=0.25))
    profile = to_profile(
        tiny_target(), CONFIG, UsedPrompts("sha256:0"), SearchCost(1, 1.0), result
    )
    assert profile.expected is not None
    assert profile.expected.speedup == pytest.approx(exp(0.2), abs=1e-3)
    assert profile.expected.low < profile.expected.speedup < profile.expected.high
    assert profile.expected.first_text == pytest.approx(1.1 * exp(-0.05), abs=1e-3)
    assert Baseline.of(profile).speedup == profile.expected.speedup
    shown = profile_text(profile).plain
    assert "expected    1.22× (1.20–1.25) end to end on other text · first text 1.05×" in shown
    assert Profile.parse(profile.to_yaml("p.yaml"), "p.yaml") == profile
    assert profile.search is not None
    saved_per_token = (1 - exp(-0.2)) / 10.0
    assert profile.search.breaks_even_after_tokens == round(1.0 / saved_per_token)


@pytest.mark.parametrize("winner", [None, validated("layer-skip", -0.1), validated("suffix", 0.0)])
def test_a_search_that_gains_nothing_never_breaks_even(winner: Validated | None) -> None:
    assert SearchCost(1, 1.0).break_even_tokens(winner) is None
