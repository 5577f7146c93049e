"""Predictions of methods that copy, checked against real decoding and texts made by hand."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from support.timing_fakes import tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.cost_model.prediction import Prediction
from skipopt.decoding.api import generate_rounds
from skipopt.masks import SkipMask
from skipopt.scoring import ScoredText, Trace
from skipopt.study.copy_replay import predict_cascade, predict_suffix

COSTS = Costs(0.1, 0.05, 0.05, 0.0, verify=(1.0, 1.1, 1.2, 1.3, 1.4))
EVERYTHING = SkipMask.of(4, range(4), range(4))  # a draft step takes 0.1
CYCLE = (1, 2, 3, 4, 5, 6, 7, 8)


def decoded_texts(count: int) -> list[tuple[ScoredText, list[int]]]:
    """Texts of a tiny model after repetitive prompts, with the drafted tokens of each round."""
    rng, target, found = Random(0), tiny_target(), []
    for _ in range(count):
        prompt = 3 * [rng.randrange(3, 100) for _ in range(rng.randint(2, 5))]
        rounds = list(generate_rounds(target, prompt, method="suffix", max_new_tokens=24))
        text = [token for each in rounds for token in each.emitted]
        found.append((ScoredText((*prompt, *text), len(prompt)), [len(r.drafted) for r in rounds]))
    return found


def test_suffix_is_replayed_exactly() -> None:
    texts = decoded_texts(6)
    found = predict_suffix([text for text, _ in texts], COSTS)
    for speedup, (text, drafted) in zip(found.per_text_speedups, texts, strict=True):
        seconds = sum(COSTS.verification(count + 1) for count in drafted)
        assert speedup == pytest.approx(len(text.continuation) / seconds)


def test_a_repetitive_text_is_copied_by_both() -> None:
    """The prompt holds the cycle twice, so every round copies until the text ends."""
    text = ScoredText(CYCLE * 4, 16)
    lookup = predict_suffix([text], COSTS)
    assert lookup.per_text_speedups[0] == pytest.approx(
        16 / (COSTS.verification(11) + COSTS.verification(5))
    )
    assert (lookup.acceptance_rate, lookup.matchness, lookup.gamma) == (1.0, 1.0, 16)
    assert cascade(text, matched=False).speedup > 2


def test_a_new_text_is_drafted_by_the_model() -> None:
    """Nothing repeats, so copying decodes plainly; the model's drafts are right."""
    text = ScoredText(tuple(range(100, 140)), 10)
    lookup = predict_suffix([text], COSTS)
    assert (lookup.speedup, lookup.acceptance_rate) == (pytest.approx(1.0), 0.0)
    found = cascade(text, matched=True)
    assert found.speedup == pytest.approx(30 / (6 * (4 * 0.1 + COSTS.verify[4])))
    assert (found.gamma, found.tau, found.acceptance_rate) == (4, 0.0, 1.0)


def test_bad_drafts_are_not_made() -> None:
    text = ScoredText(tuple(range(100, 140)), 10)
    assert cascade(text, matched=False).speedup == pytest.approx(1.0)


def test_copies_and_drafts_together_are_faster_than_each_alone() -> None:
    """The first half repeats the prompt; the rest is new, and the model's drafts are right."""
    text = ScoredText(CYCLE * 4 + tuple(range(100, 116)), 16)
    drafts = ScoredText(tuple(range(100, 132)), 0)
    found = cascade(text, matched=True).speedup
    assert found > predict_suffix([text], COSTS).speedup
    assert found > cascade(drafts, matched=True).speedup


def cascade(text: ScoredText, matched: bool) -> Prediction:
    count = len(text.continuation)
    trace = Trace(
        np.full((1, count, 1), matched), np.ones((1, count, 1), np.float32), np.array([count])
    )
    return predict_cascade([text], COSTS, trace, EVERYTHING, gamma=4, tau=0.0)


def test_verification_beyond_the_measured_ones_grows_as_before() -> None:
    assert COSTS.verification(5) == 1.4
    assert COSTS.verification(8) == pytest.approx(1.7)
