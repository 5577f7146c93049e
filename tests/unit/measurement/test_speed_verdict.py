"""The sequential test of a kept speedup, and the comparison of texts with a baseline's."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest

from skipopt.measurement.paired_texts import (
    Pair,
    change,
    log_plain,
    log_speedup,
    mean_log_speedup,
    pair_times,
    speedup_of_other_texts,
    text_key,
)
from skipopt.measurement.speed_verdict import ERROR_RATE, RUN_ERROR, Answer, SpeedRule, error_rate
from skipopt.stats import Estimate

Texts = dict[str, dict[int, Pair]]


def run(seed: int, factor: float = 1.0, blocks: int = 2, noise: float = 0.07) -> Texts:
    """16 texts with speedups from 1 to 2.5 times `factor`, noise, and rare texts that are slow."""
    rng = Random(seed)
    level = math.exp(rng.gauss(0, RUN_ERROR)) * factor

    def seconds(at: float) -> float:
        return at * math.exp(rng.gauss(0, noise)) * (2 if rng.random() < 0.03 else 1)

    return {
        str(i): {
            repeat: Pair(seconds(1.0), seconds(1 / (level * (1 + i / 10))))
            for repeat in range(2 * blocks)
        }
        for i in range(16)
    }


def verdicts(factor: float, tolerance: float, runs: int = 100) -> Counter[str]:
    """Of runs of up to four blocks, each against a baseline of its own."""
    found: Counter[str] = Counter()
    for seed in range(runs):
        rule = SpeedRule(0.01, baseline=run(10_000 + seed, blocks=3), tolerance=tolerance)
        whole = run(seed, factor, 4)
        for number in range(1, 5):
            now = {
                key: {repeat: pair for repeat, pair in repeats.items() if repeat < 2 * number}
                for key, repeats in whole.items()
            }
            verdict = rule.look(now, number, number == 4).verdict
            if verdict != "inconclusive":
                break
        found[verdict] += 1
    return found


def test_unchanged_runs_pass_and_large_losses_fail() -> None:
    assert verdicts(1.0, 0.1)["pass"] >= 90
    assert verdicts(0.8, 0.1)["fail"] >= 90


def test_a_loss_of_15_percent_is_caught_at_half_the_tolerance() -> None:
    assert verdicts(0.85, 0.05)["fail"] >= 85


@pytest.mark.parametrize("factor", [0.9, 0.95])
def test_wrong_verdicts_are_rare_on_either_side_of_what_must_be_kept(factor: float) -> None:
    at_limit = verdicts(factor, 1 - factor)
    assert at_limit["pass"] <= 100 * ERROR_RATE + 5
    assert at_limit["fail"] <= 100 * ERROR_RATE + 5


@pytest.mark.parametrize("looks", [1, 2, 7])
def test_all_looks_together_spend_the_error_rate(looks: int) -> None:
    spent = sum(error_rate(look, is_last=False) for look in range(1, looks))
    assert spent + error_rate(looks, is_last=True) == pytest.approx(ERROR_RATE)


def test_the_floor_counts_beside_the_baseline() -> None:
    rule = SpeedRule(3.0, baseline=run(1), tolerance=0.5)
    assert rule.look(run(2)).verdict == "fail"
    assert "is below the threshold of 3.000" in rule.look(run(2)).reason


def test_more_repeats_narrow_the_speedup_of_these_texts_but_not_that_of_others() -> None:
    few, many = (run(3, blocks=blocks, noise=0.02) for blocks in (1, 20))
    assert mean_log_speedup(many).error < mean_log_speedup(few).error / 2
    others = speedup_of_other_texts(many)
    assert others.error > 2 * mean_log_speedup(few).error
    rule = SpeedRule(1.5, of_other_texts=True)
    assert rule.look(many).floor.ratio.high > SpeedRule(1.5).look(many).floor.ratio.high


def test_repeats_of_the_same_order_are_compared() -> None:
    """The method is faster after itself; a run without such repeats is not a faster one."""
    then = {"a": {0: Pair(1.0, 0.5), 1: Pair(1.0, 0.4)}}
    now = {"a": {0: Pair(1.0, 0.5)}}
    found = change(now, then, log_speedup)
    assert found is not None
    assert found.mean == pytest.approx(0)


def test_texts_without_a_counterpart_are_left_out() -> None:
    now = {"a": {0: Pair(2.0, 1.0)}, "b": {0: Pair(9.0, 1.0)}}
    then = {"a": {0: Pair(1.0, 1.0)}, "c": {0: Pair(1.0, 1.0)}}
    for value in (log_speedup, log_plain):
        found = change(now, then, value)
        assert found is not None
        assert found.mean == pytest.approx(math.log(2))
    assert change(now, {"c": then["c"]}, log_speedup) is None


def test_one_ratio_says_nothing() -> None:
    rule = SpeedRule(1.0, baseline={"a": {0: Pair(1.0, 0.5)}}, tolerance=0.1)
    look = rule.look({"a": {0: Pair(1.0, 0.5)}})
    assert look.verdict == "inconclusive"
    assert "more prompts" in look.reason


def test_an_answer_stays_finite() -> None:
    answer = Answer.of(Estimate(0.0, 1e9, 1.0), 1.0, 0.01)
    assert 0 < answer.ratio.low < 1e-9
    assert math.isfinite(answer.ratio.high)


def test_pairs_are_of_plain_decoding_and_the_method() -> None:
    times = [("plain", 0, 0, 2.0), ("cascade", 0, 0, 1.0), ("cascade", 1, 0, 3.0)]
    assert pair_times(times, ["x", "y"]) == {"x": {0: Pair(2.0, 1.0)}}


def test_a_text_is_named_by_its_prompt_and_its_tokens() -> None:
    assert text_key([1, 2], (3,)) == text_key((1, 2), [3])
    assert text_key([1, 2], [3]) != text_key([1], [2, 3])
