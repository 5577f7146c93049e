"""The gain of each part of a draft: measured where it was decoded, else predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.timing_fakes import tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.cost_model.prediction import Prediction
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.profile import Profile
from skipopt.reporting.profiles import profile_text
from skipopt.scoring import ScoredText
from skipopt.stats import Interval
from skipopt.storage.base import Trial
from skipopt.study.ablation import Ablation, Gain, described
from skipopt.study.config import SearchConfig
from skipopt.study.draft_config_search import Candidate
from skipopt.study.expected_speedup import Expected
from skipopt.study.method_predictions import MethodPredictions
from skipopt.study.rescoring import TimeToScore
from skipopt.study.to_profile import SearchCost, SearchResult, UsedPrompts, to_profile
from skipopt.study.validation import Validated

COSTS = Costs(1.0, 0.1, 0.1, 0.0, verify=(2.0, 2.1, 2.2, 2.3))
TEXTS = [ScoredText(tuple(range(20)), 10)]
EMPTY, MASK = SkipMask.empty(4), SkipMask.of(4, [1], [2])
INT8 = DraftConfig(weight_bits=8)
SHORT = DraftConfig(weight_bits=8, attention_window=64)


def candidate(mask: SkipMask, draft_config: DraftConfig, speedup: float) -> Candidate:
    prediction = Prediction(speedup, (speedup,), 3, 0.0, 0.9, 0.9)
    return Candidate(Trial(mask, speedup, prediction, draft_config), COSTS)


def validated(method: str, index: int, speedup: float) -> Validated:
    interval = Interval(speedup, speedup - 0.1, speedup + 0.1)
    gain = Expected(0.2, 0.01)
    measured = (interval, interval, 0.9, 2.0, 10.0, 12.0)
    return Validated(index, method, gain, 0.2, False, True, *measured, lossless="exact")


class Tried:
    """Drafts that are tried alone are predicted to be 1.05 times as fast."""

    time = TimeToScore()

    def __init__(self, has_time: bool = True) -> None:
        self.has_time = has_time
        self.tried: list[tuple[SkipMask, DraftConfig]] = []

    def fits(self, texts: Sequence[ScoredText]) -> bool:
        return self.has_time

    def try_one(self, mask: SkipMask, draft_config: DraftConfig, *_: Any) -> Candidate:
        self.tried.append((mask, draft_config))
        return candidate(mask, draft_config, 1.05)


def ablation(
    results: Sequence[Validated],
    candidates: Sequence[Candidate],
    known: Sequence[Candidate] = (),
    search: Tried | None = None,
) -> Ablation:
    predictions = MethodPredictions(tiny_target(), TEXTS, candidates, TimeToScore)
    return Ablation(results, predictions, known, search or Tried(), TEXTS)  # type: ignore[arg-type]


def test_decoded_combinations_are_measured_and_the_others_predicted() -> None:
    search = Tried()
    found = ablation(
        [validated("cascade", 0, 1.4), validated("layer-skip", 0, 1.3)],
        [candidate(MASK, INT8, 1.25)],
        [candidate(EMPTY, INT8, 1.2)],
        search,
    ).gains(0)
    assert found == {
        "mask": Gain(1.05, "predicted"),
        "quant": Gain(1.2, "predicted"),
        "all": Gain(1.3, "measured"),
        "all_with_copies": Gain(1.4, "measured"),
        "copies": Gain(pytest.approx(1.0), "predicted"),
    }
    assert search.tried == [(MASK, UNCHANGED)], "int8 alone was tried before"


def test_fewer_experts_are_a_part_of_their_own() -> None:
    search = Tried()
    both = DraftConfig(weight_bits=8, experts=0)
    results = [validated("layer-skip", 0, 1.3), validated("cascade", 0, 1.4)]
    found = ablation(results, [candidate(MASK, both, 1.25)], search=search).gains(0)
    assert found["experts"] == found["quant"] == Gain(1.05, "predicted")
    assert search.tried == [(MASK, UNCHANGED), (EMPTY, INT8), (EMPTY, DraftConfig(experts=0))]


def test_a_part_that_was_decoded_alone_is_measured() -> None:
    candidates = [candidate(MASK, INT8, 1.25), candidate(EMPTY, INT8, 1.2)]
    results = [validated("layer-skip", 0, 1.3), validated("layer-skip", 1, 1.22)]
    assert ablation(results, candidates).gains(0)["quant"] == Gain(1.22, "measured")


def test_without_time_an_unknown_part_is_left_out() -> None:
    found = ablation(
        [validated("layer-skip", 0, 1.3), validated("cascade", 0, 1.4)],
        [candidate(EMPTY, SHORT, 1.25)],
        search=Tried(has_time=False),
    ).gains(0)
    assert set(found) == {"all", "all_with_copies", "copies"}


def test_the_only_part_is_all() -> None:
    results = [validated("layer-skip", 0, 1.3), validated("cascade", 0, 1.4)]
    found = ablation(results, [candidate(EMPTY, INT8, 1.25)]).gains(0)
    assert found["quant"] == found["all"] == Gain(1.3, "measured")


def test_where_copies_won_the_best_drafts_are_told() -> None:
    results = [validated("suffix", 0, 1.5), validated("layer-skip", 1, 1.3)]
    assert described(results, results[0]) == 1
    assert described(results, results[1]) == 1
    assert described(results[:1], results[0]) == 0


def test_the_profile_shows_the_parts() -> None:
    gains = {
        "quant": Gain(1.2, "predicted"),
        "experts": Gain(1.1, "predicted"),
        "all": Gain(1.3, "measured"),
    }
    result = SearchResult(
        Trial(MASK, 1.2, candidate(MASK, INT8, 1.2).trial.prediction, INT8),
        validated("layer-skip", 0, 1.3),
        gains=gains,  # type: ignore[arg-type]
    )
    cost, prompts = SearchCost(1, 1.0), UsedPrompts("sha256:0")
    profile = to_profile(tiny_target(), SearchConfig(), prompts, cost, result)
    assert (
        "ablation:\n  quant: {speedup: 1.2, source: predicted}\n  experts: {" in profile.to_yaml()
    )
    assert Profile.parse(profile.to_yaml(), "p.yaml") == profile
    lines = profile_text(profile).plain.splitlines()
    at = lines.index("parts       weight bits 1.20× (predicted)")
    assert lines[at + 1] == "            experts 1.10× (predicted)"
    assert lines[at + 2] == "            all together 1.30× (measured)"
