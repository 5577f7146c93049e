"""Replayed decoding, checked against a simulation in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from skipopt.cost_model.costs import Costs
from skipopt.cost_model.replay import TAUS, SimulatedRounds, best_prediction
from skipopt.masks import SkipMask
from skipopt.scoring import Trace

MASK = SkipMask.of(4, attention=[0, 1], mlp=[1, 3])
COSTS = Costs(
    overhead=1.0,
    attention=0.5,
    mlp=0.25,
    layer_overhead=0.125,
    verify=(4.5, 4.75, 5.5, 5.75, 7.0, 7.25),
    confidence=0.0625,
)
LONGEST = len(COSTS.verify) - 1


def random_trace(seed: int, texts: int = 3, longest: int = 30) -> Trace:
    """A trace of drafts of one to six tokens, both shorter and longer than the replayed ones."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, texts)
    shape = texts, int(max(lengths)), int(rng.integers(1, LONGEST + 2))
    matched = rng.random(shape) < rng.uniform(0.1, 1.0)
    return Trace(matched, rng.random(shape).astype(np.float32), lengths)


def even_trace(matched: bool, lengths: Sequence[int] = (24,), confidence: float = 1.0) -> Trace:
    shape = len(lengths), max(lengths), 1
    return Trace(
        np.full(shape, matched), np.full(shape, confidence, np.float32), np.array(lengths)
    )


def walk(trace: Trace, text: int, gamma: int, tau: float) -> tuple[int, int, float]:
    """Drafted and accepted tokens of one text, and seconds."""
    drafted, accepted, seconds = 0, 0, 0.0
    matched, sure, end = trace.matched[text], trace.confidence[text], int(trace.lengths[text])

    def entry(start: int, token: int) -> tuple[int, int]:
        """Where this token was scored: in a later draft if this one was not scored so far."""
        depth = min(token, matched.shape[1] - 1)
        return start + token - depth, depth

    position = 0
    while position < end:
        count = 0
        # The last token of a text is the target's own.
        while count < gamma and position + count < end - 1:
            count += 1
            if sure[entry(position, count - 1)] < tau:
                break
        good = 0
        while good < count and matched[entry(position, good)]:
            good += 1
        drafted, accepted = drafted + count, accepted + good
        seconds += count * COSTS.draft_step(MASK, tau) + COSTS.verify[count]
        position += good + 1
    return drafted, accepted, seconds


def walk_all(trace: Trace, gamma: int, tau: float) -> tuple[int, int, float]:
    texts = [walk(trace, text, gamma, tau) for text in range(len(trace.lengths))]
    drafted, accepted, seconds = zip(*texts, strict=True)
    return sum(drafted), sum(accepted), sum(seconds)


def replayed(trace: Trace, taus: Sequence[float] = (0.0,)) -> list[list[tuple[int, int, float]]]:
    """By τ and γ: drafted, accepted, seconds."""
    rounds = SimulatedRounds.of(trace, range(1, LONGEST + 1), taus)
    seconds = rounds.seconds(MASK, COSTS).sum(0)
    return [
        [(*rounds.counts(t, g), float(seconds[t, g])) for g in range(LONGEST)]
        for t in range(len(taus))
    ]


@pytest.mark.parametrize("seed", range(24))
def test_replay_equals_the_simulation(seed: int) -> None:
    trace = random_trace(seed)
    for tau, row in zip(TAUS, replayed(trace, TAUS), strict=True):
        for gamma, found in enumerate(row, start=1):
            assert found == pytest.approx(walk_all(trace, gamma, tau))


@pytest.mark.parametrize("seed", range(12))
def test_best_prediction_is_the_best_of_all_simulations(seed: int) -> None:
    trace = random_trace(seed)
    found = best_prediction(trace, MASK, COSTS)
    plain = trace.lengths.sum() * COSTS.plain
    speedups = [plain / walk_all(trace, g, t)[2] for t in TAUS for g in range(1, LONGEST + 1)]
    drafted, accepted, seconds = walk_all(trace, found.gamma, found.tau)
    assert found.speedup == pytest.approx(max(speedups))
    assert found.speedup == pytest.approx(plain / seconds)
    assert found.acceptance_rate == (accepted / drafted if drafted else 0.0)
    rounds = trace.lengths.sum() - accepted
    assert found.mean_acceptance_length == pytest.approx(trace.lengths.sum() / rounds)
    assert found.round_cost == pytest.approx(seconds / COSTS.plain / rounds)
    each = [
        length * COSTS.plain / walk(trace, text, found.gamma, found.tau)[2]
        for text, length in enumerate(trace.lengths)
    ]
    assert found.median_speedup == pytest.approx(sorted(each)[1])


@pytest.mark.parametrize("gamma", [1, 2, 3, 5])
def test_all_accepted_takes_gamma_plus_one_a_round(gamma: int) -> None:
    rounds = 6
    trace = even_trace(True, [rounds * (gamma + 1)])
    drafted, accepted, seconds = replayed(trace)[0][gamma - 1]
    assert drafted == accepted == rounds * gamma
    a_round = gamma * COSTS.draft_step(MASK) + COSTS.verify[gamma]
    assert seconds == pytest.approx(rounds * a_round)


def test_none_accepted_takes_one_token_a_round() -> None:
    tokens = 24
    row = replayed(even_trace(False, [tokens]))[0]
    assert not any(accepted for _, accepted, _ in row)
    drafted, _, seconds = row[0]
    assert drafted == tokens - 1, "the last token is not drafted"
    step, verify = COSTS.draft_step(MASK), COSTS.verify
    assert seconds == pytest.approx((tokens - 1) * (step + verify[1]) + verify[0])


def test_a_draft_stops_after_the_first_unsure_token() -> None:
    trace = even_trace(True, [24], confidence=0.1)
    row = replayed(trace, [0.5])[0]
    assert {d for d, _, _ in row} == {12}, "one draft token per round for every γ"


def test_a_confidence_equal_to_tau_does_not_stop_a_draft() -> None:
    trace = even_trace(True, [24], confidence=0.5)
    at, below = replayed(trace, [0.5])[0], replayed(trace, [0.0])[0]
    assert [row[:2] for row in at] == [row[:2] for row in below]


def test_ties_go_to_the_shorter_draft_and_the_lower_threshold() -> None:
    """A text of two tokens has room for one draft token, so every γ gives the same speed."""
    found = best_prediction(even_trace(True, [2, 2]), MASK, COSTS)
    assert (found.gamma, found.tau) == (1, TAUS[0])


def test_text_of_one_token_is_a_plain_step() -> None:
    found = best_prediction(even_trace(True, [1]), MASK, COSTS)
    assert (found.speedup, found.acceptance_rate) == (1.0, 0.0)


def test_scored_later_tokens_replace_the_assumption_for_them() -> None:
    """First draft tokens always match, second ones never."""
    matched = np.stack([np.ones((1, 12), bool), np.zeros((1, 12), bool)], -1)
    sure = np.ones(matched.shape, np.float32)
    whole = Trace(matched, sure, np.array([12]))
    first = Trace(matched[..., :1], sure[..., :1], np.array([12]))
    assert replayed(whole)[0][3][1] == 6, "one of each round is accepted"
    assert replayed(first)[0][3][1] == 9, "four of each round would be"
