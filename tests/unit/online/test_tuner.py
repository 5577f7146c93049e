"""Which mask, γ and τ are adopted while decoding, and on what evidence."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.online import tuner as module
from skipopt.online.gate import FEWEST, FIRST_PAUSE, SpeculationGate
from skipopt.online.online_costs import DraftCostEstimator
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import EVERY
from skipopt.online.traces import SimulatedRound, Trace
from skipopt.online.tuner import MOST, PROBATION, DraftParameters, OnlineTuner, PairedComparison

DEPTH = 4
MASK = SkipMask.of(DEPTH, [1], [1])
START = DraftParameters(MASK, gamma=3, tau=0.0)


def seconds(mask: SkipMask, drafted: int) -> float:
    """A plain step is 1; each sublayer skipped saves a tenth of a draft step."""
    return drafted * (1 - 0.1 * len(mask.skipped)) + 1 + 0.02 * drafted


def trace(hits: str, sure: float = 0.9) -> Trace:
    return Trace(tuple(hit == "x" for hit in hits), (sure,) * len(hits))


def of_rate(rate: float, count: int, rng: Random) -> Trace:
    return trace("".join("x" if rng.random() < rate else "." for _ in range(count)))


# --- rounds from a trace


def test_rounds_are_those_that_would_have_begun_at_each_place() -> None:
    assert trace("xx.xx").rounds(2, 0.0, reach=2) == [
        SimulatedRound(3, 2),
        SimulatedRound(2, 2),
        SimulatedRound(1, 2),
        SimulatedRound(3, 2),
    ]


def test_rounds_end_after_the_first_token_below_tau_which_is_drafted() -> None:
    one = Trace((True, True, True), (0.9, 0.2, 0.9))
    assert one.rounds(3, 0.5, reach=3) == [SimulatedRound(3, 2)]
    assert one.rounds(3, 0.0, reach=3) == [SimulatedRound(4, 3)]


def test_rounds_of_unequal_length_begin_at_the_same_places() -> None:
    one = trace("x" * 9)
    assert len(one.rounds(1, 0.0, reach=5)) == len(one.rounds(5, 0.0, reach=5)) == 5


# --- a contest


def test_the_gain_is_above_zero_where_the_predicted_speed_is_higher() -> None:
    cheaper = DraftParameters(MASK.flip(4, 5), 3, 0.0)
    for hits in ("xx.xxxx.x.xxxxxxxxxx", "xx.xx....x..x.xxxx.x", "x..................."):
        contest = PairedComparison(cheaper, START)
        contest.add(trace(hits), trace("xx.xxxx.x.xxxxxxxxxx"))
        verdict = contest.judge(seconds)
        ours = sum(tokens for (tokens, _), _ in contest.plays)
        time = sum(seconds(cheaper.mask, drafted) for (_, drafted), _ in contest.plays)
        assert verdict.speed == pytest.approx(ours / time)
        count = len(contest.plays)
        unbiased = (verdict.gain * (count + 1) + 1) / count  # without the token as if lost
        assert (unbiased > 0) == (verdict.speed > verdict.in_force)


def test_the_same_mask_is_no_better_than_itself() -> None:
    contest = PairedComparison(START, START)
    for _ in range(20):
        contest.add(trace("xx.x" * 8), trace("xx.x" * 8))
    verdict = contest.judge(seconds)
    assert verdict.speed == verdict.in_force
    assert verdict.gain < 0


def test_error_of_the_gain_is_that_of_repeated_contests() -> None:
    """On tokens that agree by chance; candidate and mask in force by chances of their own."""
    rng = Random(0)
    cheaper = DraftParameters(MASK.flip(4), 3, 0.0)
    verdicts = []
    for _ in range(200):
        contest = PairedComparison(cheaper, START)
        contest.add(of_rate(0.8, 200, rng), of_rate(0.85, 200, rng))
        verdicts.append(contest.judge(seconds))
    gains = [verdict.gain for verdict in verdicts]
    mean = sum(gains) / len(gains)
    spread = (sum((gain - mean) ** 2 for gain in gains) / len(gains)) ** 0.5
    told = sum(verdict.error for verdict in verdicts) / len(verdicts)
    assert spread < told < 1.6 * spread, "never less than it is"


# --- the tuning


def play(tuning: OnlineTuner, agree: dict[int, float], rounds: int, seed: int = 0) -> None:
    """Each sublayer that is skipped leaves so many tokens right; hits fall independently."""
    rng = Random(seed)
    for _ in range(rounds):
        candidate, in_force = tuning.candidate(), tuning.setting
        noise = [[rng.random() for _ in range(2 * DEPTH)] for _ in range(tuning.window)]
        traces = [
            trace(
                "".join(
                    "x" if all(u[i] < agree.get(i, 1.0) for i in each.mask.skipped) else "."
                    for u in noise
                )
            )
            for each in (candidate, in_force)
        ]
        tuning.tell(traces[0], traces[1], seconds)


def test_what_costs_nothing_is_skipped_and_what_hurts_is_not() -> None:
    tuning = OnlineTuner(START)
    hurts = {0: 0.2, 3: 0.3}  # attention of layer 0 and MLP of layer 1, the latter skipped so far
    play(tuning, hurts, 400)
    assert not tuning.setting.mask.skipped & {0, 3}
    assert len(tuning.setting.mask.skipped) > 4
    assert tuning.setting.gamma > START.gamma, "drafts that always stand are drafted longer"
    assert 0 < tuning.switches < tuning.trials


def test_a_mask_of_higher_matchness_that_is_dearer_is_not_adopted() -> None:
    """Not skipping sublayer 2 makes a hit of 1 in 50 misses, and costs a tenth of a step."""
    tuning = OnlineTuner(START)
    dearer = PairedComparison(replace(START, mask=MASK.flip(2)), START)
    tuning._contest = dearer
    for _ in range(MOST):
        if tuning._contest is not dearer:
            break
        tuning.tell(trace("x" * 50), trace("x" * 49 + "."), seconds)
    assert tuning.setting == START
    assert tuning.switches == 0


def test_chance_alone_swaps_hardly_ever() -> None:
    """Candidates at the price of what is in force, and hits by chance: a few in a hundred win."""
    rng = Random(1)
    won = 0
    for seed in range(100):
        tuning = OnlineTuner(START, seed=seed)
        tuning._contest = contest = PairedComparison(
            replace(START, mask=SkipMask.of(DEPTH, [2], [2])), START
        )
        while tuning._contest is contest:
            tuning.tell(of_rate(0.8, 32, rng), of_rate(0.8, 32, rng), seconds)
        won += tuning.switches
    assert won <= 5


def test_a_candidate_goes_on_over_rounds_until_it_is_decided() -> None:
    tuning = OnlineTuner(START)
    first = tuning.candidate()
    tuning.tell(trace("x" * 32), trace("x" * 32), lambda mask, drafted: 1.0)
    assert tuning.candidate() is first
    assert tuning.trials == 1
    assert tuning.scored == 32


def test_a_candidate_that_does_not_win_is_dropped_in_the_end() -> None:
    tuning = OnlineTuner(START)
    first = tuning.candidate()
    rng = Random(0)
    for _ in range(MOST):
        one = of_rate(0.5, 40, rng)
        tuning.tell(one, one, lambda mask, drafted: 1.0 + drafted)
        if tuning.candidate() is not first:
            break
    assert tuning.candidate() != first
    assert tuning.setting == START


def test_candidates_are_neighbours_each_once() -> None:
    tuning = OnlineTuner(START)
    seen = []
    for _ in range(2 * DEPTH + 3):  # τ is at its lowest, so it has one neighbour only
        seen.append(tuning.candidate())
        tuning.tell(trace("." * 32), trace("x" * 32), seconds)
    assert len(set(seen)) == len(seen)
    masks = [each.mask for each in seen if each.mask != MASK]
    assert sorted(len(MASK.skipped ^ mask.skipped) for mask in masks) == [1] * 2 * DEPTH
    others = {(each.gamma, each.tau) for each in seen if each.mask == MASK}
    assert others == {(2, 0.0), (4, 0.0), (3, 0.1)}


def test_every_25th_candidate_is_suggested_from_the_speeds_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[dict[SkipMask, float]] = []
    suggestion = SkipMask.of(DEPTH, [0, 1, 2], [3])

    def suggest_mask(space: object, values: dict[SkipMask, float], *rest: object) -> SkipMask:
        told.append(dict(values))
        return suggestion

    monkeypatch.setattr("skipopt.gaussian_process.suggest_mask", suggest_mask)
    tuning = OnlineTuner(START)
    masks, costs = [], []
    for _ in range(EVERY + 2):
        costs.append(tuning.price)
        masks.append(tuning.candidate().mask)
        tuning.tell(trace("." * 32), trace("x" * 32), seconds)
    assert masks.index(suggestion) == EVERY - 1
    assert [i for i, price in enumerate(costs) if price] == [EVERY - 1]
    [values] = told
    assert values[MASK] == pytest.approx(4 / seconds(MASK, 3))
    assert all(values[MASK] > value for mask, value in values.items() if mask != MASK)


def test_a_suggestion_of_the_real_process_is_a_mask_of_the_model() -> None:
    tuning = OnlineTuner(START)
    for _ in range(EVERY):
        candidate = tuning.candidate()
        tuning.tell(trace("." * 32), trace("x" * 32), seconds)
    assert candidate.mask.layers == DEPTH
    assert (candidate.gamma, candidate.tau) == (START.gamma, START.tau)


def test_tuning_repeats_with_its_seed() -> None:
    def candidates(seed: int) -> list[DraftParameters]:
        tuning = OnlineTuner(START, seed=seed)
        found = []
        for _ in range(8):
            found.append(tuning.candidate())
            tuning.tell(trace("." * 32), trace("x" * 32), seconds)
        return found

    assert candidates(1) == candidates(1)
    assert candidates(1) != candidates(2)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(UsageError, match="share must lie in"):
        OnlineTuner(START, share)


def test_long_drafts_have_a_window_that_holds_them() -> None:
    assert OnlineTuner(replace(START, gamma=40)).window >= 80
    assert OnlineTuner(START).window == module.WINDOW


# --- a swap on probation


def swapped(tuning: OnlineTuner) -> DraftParameters:
    """The candidate that came in force, after rounds that made 2 tokens a plain step."""
    for _ in range(10):
        tuning.observe(4, 2.0)
    candidate = tuning.candidate()
    while tuning.setting == START:
        tuning.tell(trace("x" * 32), trace("." * 32), seconds)
    assert tuning.setting == candidate
    return candidate


def test_a_swap_that_makes_less_of_its_time_is_undone_and_not_tried_again() -> None:
    tuning = OnlineTuner(START)
    candidate = swapped(tuning)
    rollbacks = [tuning.observe(2 + i % 3, 2.0) for i in range(PROBATION)]
    assert rollbacks == [False] * (PROBATION - 1) + [True]
    assert tuning.setting == START
    assert (tuning.switches, tuning.rollbacks) == (1, 1)
    seen = []
    for _ in range(2 * DEPTH + 2):
        seen.append(tuning.candidate())
        tuning.tell(trace("." * 32), trace("x" * 32), seconds)
    assert len(set(seen)) == 2 * DEPTH + 2
    assert candidate not in seen


@pytest.mark.parametrize("tokens", [4, 6])
def test_a_swap_that_makes_as_much_or_more_stays(tokens: int) -> None:
    tuning = OnlineTuner(START)
    candidate = swapped(tuning)
    assert not any(tuning.observe(tokens + i % 2, 2.0) for i in range(2 * PROBATION))
    assert tuning.setting == candidate
    assert tuning.rollbacks == 0


def test_one_swap_at_a_time() -> None:
    tuning = OnlineTuner(START)
    candidate = swapped(tuning)
    second = tuning.candidate()
    for _ in range(40):
        tuning.tell(trace("x" * 32), trace("." * 32), seconds)
    assert tuning.setting == candidate
    assert tuning.candidate() == second, "it waits"
    for _ in range(PROBATION):
        tuning.observe(4, 2.0)
    tuning.tell(trace("x" * 32), trace("." * 32), seconds)
    assert tuning.setting == second


def test_a_loss_within_the_noise_is_no_reason_to_go_back() -> None:
    tuning = OnlineTuner(START)
    candidate = swapped(tuning)
    for i in range(PROBATION):
        tuning.observe(1 if i % 2 else 6, 2.0)  # 3.5 tokens on average, instead of 4
    assert tuning.setting == candidate


# --- what a draft step costs


def test_draft_steps_are_priced_by_what_they_skip() -> None:
    cost = DraftCostEstimator(8)
    assert cost(0, 2.0) == 2.0
    for _ in range(300):
        cost.observe(4, 1.2, plain=2.0)
    assert cost(4, 2.0) == pytest.approx(1.2, rel=1e-3)
    assert cost(2, 2.0) == pytest.approx(1.6, rel=1e-3)
    assert cost(4, 4.0) == pytest.approx(2.4, rel=1e-3), "a machine half as fast"


def test_draft_steps_never_cost_less_than_nothing_or_more_than_a_plain_one() -> None:
    cost = DraftCostEstimator(8)
    for _ in range(300):
        cost.observe(2, 0.0, plain=1.0)
    assert cost(8, 1.0) == pytest.approx(0.0)
    for _ in range(300):
        cost.observe(2, 50.0, plain=1.0)
    assert cost(8, 1.0) == pytest.approx(1.0, abs=1e-3)
    cost.observe(0, 9.0, plain=1.0)
    assert cost(8, 1.0) == pytest.approx(1.0, abs=1e-3)


# --- the share, and arming


def test_what_can_be_afforded_keeps_within_the_share() -> None:
    learned = OnlineState(search_seconds=1.0, decode_seconds=99.0)
    assert learned.share == pytest.approx(0.01)
    assert not learned.affords(0.1, share=0.01)
    assert learned.affords(0.1, share=0.02)
    assert OnlineState().share == 0.0
    assert not OnlineState().affords(1e-6, share=0.5)


def lose(gate: SpeculationGate) -> None:
    gate.observe_plain(1.0)
    while gate.enabled:
        gate.observe_drafted(1, 1.5)


def test_arming_tells_what_was_lost_and_how_often_it_gave_up() -> None:
    gate = SpeculationGate()
    assert gate.loss is None
    assert gate.gain is None
    lose(gate)
    assert (gate.pauses, gate.loss) == (1, pytest.approx(0.5))
    for _ in range(FIRST_PAUSE):
        gate.observe_plain(1.0)
    assert gate.enabled
    assert gate.loss is not None, "on trial"
    for _ in range(FEWEST):
        gate.observe_drafted(3, 1.5)
    assert gate.loss is None
    assert gate.gain == pytest.approx(1.5)
    assert gate.pauses == 1


def test_another_text_shortens_the_pause() -> None:
    gate = SpeculationGate()
    for _ in range(4):
        lose(gate)
        while not gate.enabled:
            gate.observe_plain(1.0)
    lose(gate)
    gate.text_changed()
    for _ in range(FIRST_PAUSE):
        assert not gate.enabled
        gate.observe_plain(1.0)
    assert gate.enabled


def test_drafts_that_changed_are_judged_anew() -> None:
    gate = SpeculationGate()
    gate.observe_plain(1.0)
    for _ in range(FEWEST - 1):
        gate.observe_drafted(1, 1.5)
    gate.drafts_changed(promising=False)
    gate.observe_drafted(1, 1.5)
    assert gate.enabled, "one round is not enough"
    assert gate.gain is None


def test_a_pause_ends_at_once_where_the_new_drafts_are_promising() -> None:
    gate = SpeculationGate()
    lose(gate)
    gate.drafts_changed(promising=False)
    assert not gate.enabled
    gate.drafts_changed(promising=True)
    assert gate.wants_draft
    assert gate.loss is not None, "until they have paid"
    for _ in range(FEWEST):
        gate.observe_drafted(1, 1.01)
    assert not gate.enabled, "on trial the mean alone decides"
