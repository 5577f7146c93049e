"""Which mask, γ and τ are adopted while decoding, and on what evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from random import Random

import pytest
from support.traces import COSTS, DEPTH, MASK, made_up_costs, trace, trace_of_rate

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.online.candidates import CandidateGenerator
from skipopt.online.comparison import DraftParameters
from skipopt.online.config import OnlineConfig
from skipopt.online.tuner import OnlineTuner

START = DraftParameters(MASK, gamma=3, tau=0.0)
CONFIG = OnlineConfig()
FREE = made_up_costs(0.0, 0.0, 0.0)  # every round takes a plain step


class FixedCandidates(CandidateGenerator):
    """Proposes given candidates."""

    def __init__(self, proposals: Iterator[DraftParameters]) -> None:
        super().__init__(MaskSpace(DEPTH), CONFIG.max_gamma, CONFIG)
        self._proposals = proposals

    def propose(self, current: DraftParameters) -> DraftParameters:
        self.count += 1
        return next(self._proposals)


def tuner_of(candidate: DraftParameters) -> OnlineTuner:
    """A tuner that compares the start with this candidate repeatedly."""
    tuner = OnlineTuner(START)
    tuner.candidates = FixedCandidates(repeat(candidate))
    return tuner


def decided(tuner: OnlineTuner) -> bool:
    """Whether the first comparison is over."""
    tuner.candidate()
    return tuner.candidates.count > 1


def play(tuner: OnlineTuner, agree: dict[int, float], rounds: int, seed: int = 0) -> None:
    """Observe tokens that match independently, with a rate for each skipped sublayer."""
    rng = Random(seed)
    for _ in range(rounds):
        candidate, current = tuner.candidate(), tuner.parameters
        noise = [[rng.random() for _ in range(2 * DEPTH)] for _ in range(tuner.window)]
        traces = [
            trace(
                "".join(
                    "x" if all(u[i] < agree.get(i, 1.0) for i in each.mask.skipped) else "."
                    for u in noise
                )
            )
            for each in (candidate, current)
        ]
        tuner.tell(traces[0], traces[1], COSTS)


def test_sublayers_without_loss_are_skipped_and_others_kept() -> None:
    tuner = OnlineTuner(START)
    hurts = {0: 0.2, 3: 0.3}  # attention of layer 0 and MLP of layer 1, the latter skipped so far
    play(tuner, hurts, 400)
    assert not tuner.parameters.mask.skipped & {0, 3}
    assert len(tuner.parameters.mask.skipped) > 4
    assert tuner.parameters.gamma > START.gamma, "drafts that always match get longer"
    assert 0 < tuner.switches < tuner.candidates.count


def test_a_mask_of_higher_matchness_and_higher_cost_is_not_adopted() -> None:
    """Keeping sublayer 2 turns one miss in 50 into a match and costs a tenth of a step."""
    tuner = tuner_of(replace(START, mask=MASK.flip(2)))
    while not decided(tuner):
        tuner.tell(trace("x" * 50), trace("x" * 49 + "."), COSTS)
    assert tuner.parameters == START
    assert tuner.switches == 0


def test_candidates_rarely_win_by_chance() -> None:
    """With equal costs and rates, a few candidates in a hundred win."""
    rng = Random(1)
    won = 0
    for _ in range(100):
        tuner = tuner_of(replace(START, mask=SkipMask.of(DEPTH, [2], [2])))
        while not decided(tuner):
            tuner.tell(trace_of_rate(0.8, 32, rng), trace_of_rate(0.8, 32, rng), COSTS)
        won += tuner.switches
    assert won <= 5


def test_a_candidate_is_compared_over_rounds_until_decided() -> None:
    tuner = OnlineTuner(START)
    first = tuner.candidate()
    tuner.tell(trace("x" * 32), trace("x" * 32), FREE)
    assert tuner.candidate() is first
    assert tuner.candidates.count == 1
    assert tuner.scored_tokens == 32


def test_a_candidate_that_does_not_win_is_dropped() -> None:
    tuner = OnlineTuner(START)
    first = tuner.candidate()
    rng = Random(0)
    for _ in range(CONFIG.max_rounds):
        one = trace_of_rate(0.5, 40, rng)
        tuner.tell(one, one, made_up_costs(1.0, 0.0, 0.0))
        if tuner.candidate() is not first:
            break
    assert tuner.candidate() != first
    assert tuner.parameters == START


def test_candidates_are_neighbors_each_once() -> None:
    tuner = OnlineTuner(START)
    seen = []
    for _ in range(2 * DEPTH + 3):  # τ is at its lowest, so it has one neighbor only
        seen.append(tuner.candidate())
        tuner.tell(trace("." * 32), trace("x" * 32), COSTS)
    assert len(set(seen)) == len(seen)
    masks = [each.mask for each in seen if each.mask != MASK]
    assert sorted(len(MASK.skipped ^ mask.skipped) for mask in masks) == [1] * 2 * DEPTH
    others = {(each.gamma, each.tau) for each in seen if each.mask == MASK}
    assert others == {(2, 0.0), (4, 0.0), (3, 0.1)}


def test_every_25th_candidate_is_suggested_from_the_speeds_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[SkipMask, float]] = []
    suggestion = SkipMask.of(DEPTH, [0, 1, 2], [3])

    def suggest_mask(space: object, values: dict[SkipMask, float], *rest: object) -> SkipMask:
        given.append(dict(values))
        return suggestion

    monkeypatch.setattr("skipopt.gaussian_process.suggest_mask", suggest_mask)
    tuner = OnlineTuner(START)
    masks, costs = [], []
    for _ in range(CONFIG.suggest_every + 2):
        costs.append(tuner.candidates.seconds)
        masks.append(tuner.candidate().mask)
        tuner.tell(trace("." * 32), trace("x" * 32), COSTS)
    assert masks.index(suggestion) == CONFIG.suggest_every - 1
    assert [i for i, seconds in enumerate(costs) if seconds] == [CONFIG.suggest_every - 1]
    [values] = given
    assert values[MASK] == pytest.approx(4 / COSTS.chain_rounds(MASK)[3])
    assert all(values[MASK] > value for mask, value in values.items() if mask != MASK)


def test_a_suggestion_of_the_real_process_is_a_mask_of_the_model() -> None:
    tuner = OnlineTuner(START)
    for _ in range(CONFIG.suggest_every):
        candidate = tuner.candidate()
        tuner.tell(trace("." * 32), trace("x" * 32), COSTS)
    assert candidate.mask.layers == DEPTH
    assert (candidate.gamma, candidate.tau) == (START.gamma, START.tau)


def test_tuning_repeats_with_its_seed() -> None:
    def candidates(seed: int) -> list[DraftParameters]:
        tuner = OnlineTuner(START, OnlineConfig(seed=seed))
        found = []
        for _ in range(8):
            found.append(tuner.candidate())
            tuner.tell(trace("." * 32), trace("x" * 32), COSTS)
        return found

    assert candidates(1) == candidates(1)
    assert candidates(1) != candidates(2)


@pytest.mark.parametrize("overhead", [0.0, -0.1, 1.5, float("nan")])
def test_overhead_out_of_range(overhead: float) -> None:
    with pytest.raises(UsageError, match="overhead must lie in"):
        OnlineConfig(overhead=overhead)


def test_long_drafts_have_a_window_that_holds_them() -> None:
    assert OnlineTuner(replace(START, gamma=40)).window >= 80
    assert OnlineTuner(START).window == CONFIG.score_tokens


# --- a switch on trial


def adopted(tuner: OnlineTuner) -> DraftParameters:
    """The candidate that is adopted after rounds of 2 tokens per plain step."""
    for _ in range(10):
        tuner.observe_round(4, 2.0)
    candidate = tuner.candidate()
    while tuner.parameters == START:
        tuner.tell(trace("x" * 32), trace("." * 32), COSTS)
    assert tuner.parameters == candidate
    return candidate


def test_a_switch_that_slows_decoding_is_rolled_back_and_not_tried_again() -> None:
    tuner = OnlineTuner(START)
    candidate = adopted(tuner)
    rollbacks = [tuner.observe_round(2 + i % 3, 2.0) for i in range(CONFIG.rollback_rounds)]
    assert rollbacks == [False] * (CONFIG.rollback_rounds - 1) + [True]
    assert tuner.parameters == START
    assert (tuner.switches, tuner.rollbacks) == (1, 1)
    seen = []
    for _ in range(2 * DEPTH + 2):
        seen.append(tuner.candidate())
        tuner.tell(trace("." * 32), trace("x" * 32), COSTS)
    assert len(set(seen)) == 2 * DEPTH + 2
    assert candidate not in seen


@pytest.mark.parametrize("tokens", [4, 6])
def test_a_switch_that_does_not_slow_decoding_stays(tokens: int) -> None:
    tuner = OnlineTuner(START)
    candidate = adopted(tuner)
    rounds = range(2 * CONFIG.rollback_rounds)
    assert not any(tuner.observe_round(tokens + i % 2, 2.0) for i in rounds)
    assert tuner.parameters == candidate
    assert tuner.rollbacks == 0


def test_one_switch_at_a_time() -> None:
    tuner = OnlineTuner(START)
    candidate = adopted(tuner)
    second = tuner.candidate()
    for _ in range(40):
        tuner.tell(trace("x" * 32), trace("." * 32), COSTS)
    assert tuner.parameters == candidate
    assert tuner.candidate() == second, "it waits"
    for _ in range(CONFIG.rollback_rounds):
        tuner.observe_round(4, 2.0)
    tuner.tell(trace("x" * 32), trace("." * 32), COSTS)
    assert tuner.parameters == second


def test_a_loss_within_the_noise_is_not_rolled_back() -> None:
    tuner = OnlineTuner(START)
    candidate = adopted(tuner)
    for i in range(CONFIG.rollback_rounds):
        tuner.observe_round(1 if i % 2 else 6, 2.0)  # 3.5 tokens on average, instead of 4
    assert tuner.parameters == candidate
