"""Replay walks as decoding would; here it is checked by walking in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from skipopt.masks import SkipMask
from skipopt.replay import TAUS, best_prediction, replay
from skipopt.runtime.prices import Prices
from skipopt.scoring import Trace

MASK = SkipMask.of(4, attention=[0, 1], mlp=[1, 3])
PRICES = Prices(
    fixed=1.0, attention=0.5, mlp=0.25, layer=0.125, verify=(4.5, 4.75, 5.5, 5.75, 7.0, 7.25)
)


def random_trace(seed: int, texts: int = 3, longest: int = 30) -> Trace:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, texts)
    valid = np.arange(max(lengths)) < lengths[:, None]
    matched = (rng.random(valid.shape) < rng.uniform(0.1, 1.0)) & valid
    return Trace(matched, rng.random(valid.shape).astype(np.float32), valid)


def even_trace(matched: bool, lengths: Sequence[int] = (24,), confidence: float = 1.0) -> Trace:
    valid = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return Trace(valid & matched, np.full(valid.shape, confidence, np.float32), valid)


def walk(trace: Trace, gamma: int, tau: float) -> tuple[int, int, float]:
    """Drafted and accepted tokens, and seconds."""
    drafted, accepted, seconds = 0, 0, 0.0
    for matched, sure, valid in zip(trace.matched, trace.confidence, trace.valid, strict=True):
        place, end = 0, int(valid.sum())
        while place < end:
            count = 0
            # The last token of a text is the bonus of its round.
            while count < gamma and place + count < end - 1:
                count += 1
                if sure[place + count - 1] < tau:
                    break
            good = 0
            while good < count and matched[place + good]:
                good += 1
            drafted, accepted = drafted + count, accepted + good
            seconds += count * PRICES.draft_step(MASK) + PRICES.verify[count]
            place += good + 1
    return drafted, accepted, seconds


@pytest.mark.parametrize("seed", range(12))
def test_replay_walks_as_plain_python_does(seed: int) -> None:
    trace = random_trace(seed)
    drafted, accepted, seconds, tokens = replay(trace, MASK, PRICES, TAUS)
    assert tokens == trace.valid.sum()
    for t, tau in enumerate(TAUS):
        for gamma in range(1, len(PRICES.verify)):
            expected = walk(trace, gamma, tau)
            found = drafted[t, gamma - 1], accepted[t, gamma - 1], seconds[t, gamma - 1]
            assert found == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(12))
def test_best_prediction_is_the_best_of_all_walks(seed: int) -> None:
    trace = random_trace(seed)
    found = best_prediction(trace, MASK, PRICES)
    plain = trace.valid.sum() * PRICES.plain
    speedups = [plain / walk(trace, g, t)[2] for t in TAUS for g in range(1, 6)]
    drafted, accepted, seconds = walk(trace, found.gamma, found.tau)
    assert found.speedup == pytest.approx(max(speedups))
    assert found.speedup == pytest.approx(plain / seconds)
    assert found.acceptance_rate == (accepted / drafted if drafted else 0.0)


@pytest.mark.parametrize("gamma", [1, 2, 3, 5])
def test_all_accepted_takes_gamma_plus_one_a_round(gamma: int) -> None:
    rounds = 6
    trace = even_trace(True, [rounds * (gamma + 1)])
    drafted, accepted, seconds, _ = replay(trace, MASK, PRICES, [0.0])
    assert drafted[0, gamma - 1] == accepted[0, gamma - 1] == rounds * gamma
    a_round = gamma * PRICES.draft_step(MASK) + PRICES.verify[gamma]
    assert seconds[0, gamma - 1] == pytest.approx(rounds * a_round)


def test_none_accepted_takes_one_token_a_round() -> None:
    drafted, accepted, seconds, tokens = replay(even_trace(False), MASK, PRICES, [0.0])
    assert not accepted.any()
    assert drafted[0, 0] == tokens - 1, "the last token needs no draft"
    step, verify = PRICES.draft_step(MASK), PRICES.verify
    assert seconds[0, 0] == pytest.approx((tokens - 1) * (step + verify[1]) + verify[0])


def test_unsure_drafts_end_a_round_with_the_unsure_token() -> None:
    trace = even_trace(True, [24], confidence=0.1)
    drafted, _, _, _ = replay(trace, MASK, PRICES, [0.5])
    assert (drafted[0] == 12).all(), "one draft and one bonus a round, whatever γ allows"


def test_confidence_of_tau_itself_is_sure_enough() -> None:
    trace = even_trace(True, [24], confidence=0.5)
    at, below = replay(trace, MASK, PRICES, [0.5])[0][0], replay(trace, MASK, PRICES, [0.0])[0][0]
    assert (at == below).all()


def test_ties_go_to_the_shorter_draft_and_the_lower_threshold() -> None:
    """A text of two tokens has room for one draft: every γ is the same."""
    found = best_prediction(even_trace(True, [2, 2]), MASK, PRICES)
    assert (found.gamma, found.tau) == (1, TAUS[0])


def test_text_of_one_token_is_a_plain_step() -> None:
    found = best_prediction(even_trace(True, [1]), MASK, PRICES)
    assert (found.speedup, found.acceptance_rate) == (1.0, 0.0)


def test_prices_of_a_draft_step() -> None:
    assert PRICES.draft_step(MASK) == 1.0 + 2 * 0.5 + 2 * 0.25 + 3 * 0.125
    assert PRICES.draft_step(SkipMask.empty(4)) == PRICES.plain
    assert PRICES.draft_step(SkipMask.of(4, range(4), range(4))) == PRICES.fixed
