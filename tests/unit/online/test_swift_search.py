"""What is learned while decoding: costs, whether drafts pay, copies, and a better mask."""

from __future__ import annotations

from random import Random

import pytest
import torch
from support.tiny import tiny_llama, tiny_prompts, tiny_target

from skipopt.decoding.api import generate_rounds
from skipopt.errors import UsageError
from skipopt.gaussian_process import suggest_mask
from skipopt.masks import MaskSpace, SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.online import swift_search
from skipopt.online.gate import FEWEST, FIRST_PAUSE, LONGEST_PAUSE, REFRESH, SpeculationGate
from skipopt.online.ngram_stats import LONGEST, NgramAcceptance
from skipopt.online.online_costs import MovingAverage, Throughput, VerifyCostEstimator
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import (
    ENOUGH,
    EVERY,
    PATIENCE,
    TRIALS,
    SwiftMaskSearch,
    alternating,
    matchness,
)
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler

# --- averages


def test_average_forgets() -> None:
    average = MovingAverage(keep=0.5)
    for value in (8.0, 4.0, 2.0):
        average.add(value)
    assert average.mean == pytest.approx((0.25 * 8 + 0.5 * 4 + 2) / 1.75)


def test_average_of_equals_has_no_error_and_of_one_has_no_bound() -> None:
    average = MovingAverage()
    average.add(3.0)
    assert average.error == float("inf")
    average.add(3.0)
    average.add(3.0)
    assert average.error == pytest.approx(0.0, abs=1e-6)


def test_spike_of_the_clock_counts_as_three_times_the_mean() -> None:
    average = MovingAverage(keep=0.5)
    average.add_seconds(1.0)
    average.add_seconds(100.0)
    assert average.mean == pytest.approx((0.5 * 1 + 3) / 1.5)


def test_rate_is_tokens_by_seconds_and_gain_is_beyond_a_rate() -> None:
    rate = Throughput()
    assert not rate.known
    assert rate.per_second == 0.0
    for tokens, seconds in ((1, 0.5), (3, 1.5)):
        rate.add(tokens, seconds)
    assert rate.per_second == pytest.approx(2.0)
    assert rate.gain(2.0) == pytest.approx(0.0)
    assert rate.gain(1.0) == pytest.approx(rate.tokens.mean / 2)


# --- what verification costs


def test_unknown_costs_are_in_plain_steps() -> None:
    cost = VerifyCostEstimator()
    assert cost(1) == cost.plain == 1.0
    assert 1.0 < cost(2) < cost(9)
    assert cost.per_row == pytest.approx(cost(9) - cost(8))


def test_costs_lie_on_the_line_that_was_seen_and_one_row_off_it() -> None:
    cost = VerifyCostEstimator()
    for _ in range(40):
        for rows in (1, 2, 5, 9):
            cost.observe(rows, 0.5 if rows == 1 else 1.0 + 0.1 * rows)
    assert cost(1) == pytest.approx(0.5)
    assert cost.per_row == pytest.approx(0.1, rel=0.1)
    assert cost(7) == pytest.approx(1.7, rel=0.02)
    assert cost(20) == pytest.approx(3.0, rel=0.05)


def test_plain_step_is_guessed_from_longer_ones_until_one_is_seen() -> None:
    cost = VerifyCostEstimator()
    cost.observe(3, 1.4)
    assert cost.plain == pytest.approx(1.4 / (1 + cost.JUMP + 2 * cost.SLOPE))
    cost.observe(1, 0.2)
    assert cost.plain == 0.2


def test_rows_never_have_a_negative_price() -> None:
    cost = VerifyCostEstimator()
    for _ in range(20):
        cost.observe(2, 2.0)
        cost.observe(10, 1.0)
    assert cost.per_row == 0.0
    assert cost(10) == cost(2)


def test_one_slow_forward_hardly_moves_the_costs() -> None:
    cost = VerifyCostEstimator()
    for _ in range(20):
        cost.observe(4, 1.0)
    cost.observe(4, 1000.0)
    assert 1.0 < cost(4) < 1.4


def test_costs_follow_a_machine_that_becomes_slower() -> None:
    cost = VerifyCostEstimator()
    for factor in (1.0, 2.0):
        for _ in range(60):
            for rows in (1, 4):
                cost.observe(rows, factor * rows)
    assert cost(1) == pytest.approx(2.0, rel=0.01)
    assert cost(4) == pytest.approx(8.0, rel=0.01)


# --- arming


def play(
    gate: SpeculationGate, rounds: int, tokens: int, seconds: float, plain: float = 1.0
) -> str:
    """Rounds as they come: `d` for a drafted one, `.` for a plain one."""
    shown = ""
    for _ in range(rounds):
        if gate.wants_draft:
            gate.observe_drafted(tokens, seconds)
            shown += "d"
        else:
            gate.observe_plain(plain)
            shown += "."
    return shown


def test_second_round_is_plain_so_that_its_price_is_known() -> None:
    assert play(SpeculationGate(), 5, tokens=3, seconds=1.5) == "d.ddd"


def test_drafts_that_pay_go_on_and_plain_steps_are_priced_anew() -> None:
    shown = play(SpeculationGate(), 2 + 3 * (REFRESH + 1), tokens=3, seconds=1.5)
    assert shown == "d." + 3 * ("d" * REFRESH + ".")


def test_drafts_that_lose_are_given_up_after_the_fewest_rounds() -> None:
    shown = play(SpeculationGate(), 60, tokens=1, seconds=1.5)
    assert shown.startswith("d." + "d" * FEWEST + "." * FIRST_PAUSE + "d")


def test_pauses_double_and_stay_below_the_longest() -> None:
    shown = play(SpeculationGate(), 4000, tokens=1, seconds=1.5).split("d" * FEWEST)[1:]
    pauses = [len(part) for part in shown[:-1]]
    assert pauses == [min(FIRST_PAUSE * 2**i, LONGEST_PAUSE) for i in range(len(pauses))]
    assert pauses[-1] == LONGEST_PAUSE


def test_drafts_that_pay_again_are_taken_up_again() -> None:
    gate = SpeculationGate()
    assert play(gate, 2 + FEWEST + 4, tokens=1, seconds=1.5).endswith("....")
    later = play(gate, FIRST_PAUSE + 2 * REFRESH, tokens=3, seconds=1.5)
    assert later.strip(".").startswith("d" * REFRESH + "." + "d")


def test_pause_begins_short_again_once_drafts_paid() -> None:
    gate = SpeculationGate()
    play(gate, 300, tokens=1, seconds=1.5)
    while not gate.wants_draft:
        gate.observe_plain(1.0)
    play(gate, REFRESH // 2, tokens=3, seconds=1.5)
    shown = play(gate, 500, tokens=1, seconds=4.0)
    assert "d" + "." * FIRST_PAUSE + "d" in shown


def test_gain_that_is_not_sure_is_no_reason_to_give_up() -> None:
    """Rounds of 1 and 3 tokens in turn lose a little: less than their spread lets one tell."""
    gate = SpeculationGate()
    gate.observe_plain(1.0)
    for i in range(12):
        gate.observe_drafted(1 + 2 * (i % 2), 2.05)
    assert gate.enabled
    for _ in range(12):
        gate.observe_drafted(2, 2.9)
    assert not gate.enabled


def test_one_slow_round_does_not_end_drafting() -> None:
    gate = SpeculationGate()
    play(gate, 30, tokens=3, seconds=1.5)
    gate.observe_drafted(1, 20.0)
    assert gate.enabled


# --- copies


def test_longer_matches_are_believed_to_copy_better() -> None:
    rates = NgramAcceptance()
    believed = [rates.rate(length) for length in range(LONGEST + 1)]
    assert believed == sorted(believed)
    assert believed[0] == 0.0
    assert believed[-1] > 0.95
    assert rates.rate(LONGEST + 5) == believed[-1]


def test_copies_that_stand_or_fall_change_the_rate_of_their_length_only() -> None:
    rates = NgramAcceptance()
    before = rates.rate(4)
    for _ in range(200):
        rates.observe(3, True)
        rates.observe(5, False)
    assert rates.rate(3) > 0.95
    assert rates.rate(4) == before
    assert rates.rate(5) < 0.1


def test_expected_tokens_of_a_copy_are_sums_of_products() -> None:
    rates = NgramAcceptance()
    a, b = rates.rate(2), rates.rate(3)
    assert rates.expected(2, 2) == pytest.approx([0.0, a, a + a * b])
    assert rates.expected(2, 0) == [0.0]


# --- all of it


def test_adaptation_tells_rounds_apart() -> None:
    learned = OnlineState()
    learned.observe(tokens=1, rows=1, draft_seconds=0.0, verify_seconds=1.0, copied=False)
    learned.observe(tokens=4, rows=5, draft_seconds=0.0, verify_seconds=2.0, copied=True)
    assert not learned.own.known
    learned.observe(tokens=2, rows=4, draft_seconds=1.0, verify_seconds=1.5, copied=False)
    assert learned.own.per_second == pytest.approx(2 / 2.5)
    assert learned.verify(1) == 1.0
    assert learned.decode_seconds == pytest.approx(5.5)
    assert 1.2 < learned.rate < 1.4


def test_a_second_is_worth_what_plain_steps_make_of_it_at_least() -> None:
    learned = OnlineState()
    assert learned.rate == 1.0
    learned.observe(tokens=1, rows=1, draft_seconds=0.0, verify_seconds=0.1, copied=False)
    for _ in range(9):
        learned.observe(tokens=1, rows=4, draft_seconds=1.0, verify_seconds=1.0, copied=False)
    assert learned.rate == pytest.approx(10.0)


# --- the search for a better mask


def test_first_mask_is_every_second_layer_but_the_last() -> None:
    assert str(alternating(8)) == "attn 1,3,5 mlp 1,3,5"
    assert str(alternating(7)) == "attn 1,3,5 mlp 1,3,5"
    assert str(alternating(3)) == "attn 1 mlp 1"


def candidates(search: SwiftMaskSearch, count: int) -> list[SkipMask]:
    found = []
    for _ in range(count):
        found.append(search.propose())
        search.tell(found[-1], 0.1, 0.2)
    return found


def test_candidates_skip_the_ratio_and_neither_first_nor_last_layer() -> None:
    for mask in candidates(SwiftMaskSearch(12, ratio=0.3), EVERY + 3):
        assert len(mask.skipped) == int(20 * 0.3)
        assert not {0, 11} & {position // 2 for position in mask.skipped}


def test_candidates_skip_as_many_as_a_given_mask() -> None:
    given = SkipMask.of(6, [0, 1, 2], [4, 5])
    search = SwiftMaskSearch(6, given)
    assert search.mask == given
    tried = candidates(search, 40)
    assert {len(mask.skipped) for mask in tried} == {5}
    ends = {position for mask in tried for position in mask.skipped} & {0, 1, 10, 11}
    assert ends == {0, 11}, "what the given mask skips there may be skipped, and no more"


def test_candidates_repeat_with_their_seed_only() -> None:
    first, again, other = (candidates(SwiftMaskSearch(12, seed=s), 2 * EVERY) for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_every_25th_candidate_is_suggested_by_a_gaussian_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    marked = SkipMask.of(12, [5], [5])

    def suggested(space: MaskSpace, values: dict[SkipMask, float], *rest: object) -> SkipMask:
        asked.append(len(values))
        return marked

    monkeypatch.setattr("skipopt.gaussian_process.suggest_mask", suggested)
    tried = candidates(SwiftMaskSearch(12), 3 * EVERY)
    assert [i + 1 for i, mask in enumerate(tried) if mask == marked] == [25, 50, 75]
    assert asked[0] == 24


def test_better_mask_replaces_and_an_equal_or_worse_one_does_not() -> None:
    search = SwiftMaskSearch(12)
    start, first, second = search.mask, search.propose(), search.propose()
    search.tell(first, 0.5, 0.5)
    assert (search.mask, search.score) == (start, 0.5)
    search.tell(second, 0.6, 0.58)
    assert (search.mask, search.score) == (second, 0.6)


def test_first_candidate_must_beat_the_first_mask() -> None:
    """SWIFT's best score starts at 0, so that a candidate of 0.02 replaces a mask of 0.9."""
    search = SwiftMaskSearch(12)
    start = search.mask
    search.tell(search.propose(), 0.02, 0.9)
    assert search.mask == start


def test_stale_score_of_other_tokens_is_no_bar() -> None:
    """SWIFT compares with a maximum from texts long ago; here both are scored on the same."""
    search = SwiftMaskSearch(12)
    lucky, better = search.propose(), search.propose()
    search.tell(lucky, 0.92, 0.5)
    search.tell(better, 0.7, 0.6)
    assert search.mask == better


def test_search_ends_when_good_enough() -> None:
    search = SwiftMaskSearch(12)
    search.tell(search.propose(), ENOUGH, 0.5)
    assert not search.done
    search.tell(search.propose(), ENOUGH + 0.01, ENOUGH)
    assert search.done


def test_search_ends_when_the_mask_in_force_is_good_enough() -> None:
    search = SwiftMaskSearch(12)
    search.tell(search.propose(), 0.5, ENOUGH + 0.01)
    assert search.done


def test_search_ends_after_many_misses_in_a_row() -> None:
    search = SwiftMaskSearch(12, ratio=0.1)
    mask = search.propose()
    for _ in range(PATIENCE):
        search.tell(mask, 0.1, 0.2)
    assert not search.done
    search.tell(mask, 0.3, 0.2)
    for _ in range(PATIENCE + 1):
        assert not search.done
        search.tell(mask, 0.1, 0.2)
    assert search.done


def test_search_ends_after_its_trials() -> None:
    search = SwiftMaskSearch(12)
    mask = search.propose()
    for i in range(TRIALS):
        assert not search.done
        search.tell(mask, 0.3 if i % 2 else 0.1, 0.2)
    assert search.done


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(UsageError, match=f"not {ratio}"):
        SwiftMaskSearch(12, ratio=ratio)


def test_model_without_a_layer_between_first_and_last() -> None:
    with pytest.raises(UsageError, match="not 2"):
        SwiftMaskSearch(2)


# --- the Gaussian process


def test_suggestion_is_new_fits_the_space_and_repeats_with_its_seed() -> None:
    space = MaskSpace(8, frozenset({0, 1, 14, 15}), 5)
    rng = Random(0)
    values = {space.random(rng): i / 20 for i in range(20)}
    found = {suggest_mask(space, values, Random(seed), seed) for seed in (1, 1)}
    assert len(found) == 1
    assert found.pop() in space
    assert not found & set(values)


def test_suggestions_find_the_sublayers_that_are_cheap_to_skip() -> None:
    """Worth of a mask: how few of the first layers it skips."""
    space = MaskSpace(8, frozenset(), 5)
    rng = Random(1)

    def worth(mask: SkipMask) -> float:
        return sum(mask.skipped) / 65

    values = {mask: worth(mask) for mask in (space.random(rng) for _ in range(25))}
    at_random = max(values.values())
    for seed in range(12):
        mask = suggest_mask(space, values, rng, seed)
        values[mask] = worth(mask)
    assert max(values.values()) > at_random
    assert max(values.values()) > 0.95


# --- matchness

WINDOW = 12
GREEDY = SamplingOptions()
SAMPLED = SamplingOptions(temperature=0.9, top_k=12, seed=5)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(layers=4))


def written(target: Target, options: SamplingOptions) -> list[int]:
    prompt = tiny_prompts(1)[0]
    rounds = generate_rounds(
        target, prompt, method="plain:verify=match", max_new_tokens=20, options=options
    )
    return prompt + [token for each in rounds for token in each.emitted]


def filled(target: Target, tokens: list[int]) -> Engine:
    engine = Engine(target, len(tokens) + WINDOW)
    engine.prefill(tokens[:-1])
    return engine


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_whole_model_matches_everything(target: Target, options: SamplingOptions) -> None:
    tokens = written(target, options)
    sampler = TokenSampler(options, target.device, coupled=True)
    empty = SkipMask.empty(target.depth)
    assert matchness(filled(target, tokens), sampler, tokens, WINDOW, empty) == 1.0


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_matchness_is_the_share_of_first_drafts_that_are_right(
    target: Target, options: SamplingOptions
) -> None:
    tokens = written(target, options)
    sampler = TokenSampler(options, target.device, coupled=True)
    mask = SkipMask.of(target.depth, [2])
    right = 0
    for place in range(len(tokens) - WINDOW, len(tokens)):
        engine = filled(target, tokens[:place])
        with skipping(target, mask):
            logits = engine.step([tokens[place - 1]])
        right += sampler.choose(logits, [place])[0] == tokens[place]
    assert 0 < right < WINDOW
    found = matchness(filled(target, tokens), sampler, tokens, WINDOW, mask)
    assert found == right / WINDOW


def test_matchness_without_coupling_takes_the_likeliest_token(target: Target) -> None:
    tokens = written(target, GREEDY)
    free = TokenSampler(SamplingOptions(temperature=3.0), target.device, coupled=False)
    empty = SkipMask.empty(target.depth)
    assert matchness(filled(target, tokens), free, tokens, WINDOW, empty) == 1.0


def test_scoring_leaves_the_cache_and_the_model_as_they_were(target: Target) -> None:
    tokens = written(target, GREEDY)
    engine = filled(target, tokens)
    sampler = TokenSampler(GREEDY, target.device, coupled=True)
    held = [part[:, :, : engine.position].clone() for p in engine.cache.contents() for part in p]
    storage = [part.data_ptr() for pair in engine.cache.contents() for part in pair]
    matchness(engine, sampler, tokens, WINDOW, alternating(target.depth))
    assert engine.position == len(tokens) - 1
    after = [part[:, :, : engine.position] for pair in engine.cache.contents() for part in pair]
    assert all(torch.equal(*pair) for pair in zip(held, after, strict=True))
    assert storage == [part.data_ptr() for pair in engine.cache.contents() for part in pair]
    assert all("forward" not in module.__dict__ for module in target.model.modules())


def test_scoring_that_fails_rewinds(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = written(target, GREEDY)
    engine = filled(target, tokens)
    sampler = TokenSampler(GREEDY, target.device, coupled=True)

    def fail(self: Engine, inputs: list[int], *rest: object) -> None:
        self.step(inputs)
        raise MemoryError("no more")

    monkeypatch.setattr(Engine, "step_tree", fail)
    with pytest.raises(MemoryError):
        matchness(engine, sampler, tokens, WINDOW, alternating(target.depth))
    assert engine.position == len(tokens) - 1
    assert all("forward" not in module.__dict__ for module in target.model.modules())


def test_the_settings_are_those_of_swift() -> None:
    """γ = 50 is the drafter's window."""
    assert (swift_search.RATIO, EVERY, ENOUGH, PATIENCE, TRIALS) == (0.45, 25, 0.93, 300, 1000)
