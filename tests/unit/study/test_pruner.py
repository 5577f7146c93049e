"""Texts are spent where it is close."""

from __future__ import annotations

from random import Random
from statistics import fmean, stdev
from typing import Any

import pytest
from support.tiny import hf_greedy, tiny_llama, tiny_prompts, tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.masks import MaskSpace, SkipMask
from skipopt.models.target import Target
from skipopt.scoring import ScoredText, Scorer, Trace
from skipopt.storage.base import Trial
from skipopt.study import pruner
from skipopt.study.config import SearchConfig
from skipopt.study.objective import Objective
from skipopt.study.pruner import FIRST, PairedPruner

DEPTH = 3
PRICES = Costs(0.1, 1.0, 1.0, 0.1, (6.4, 6.6, 6.8, 7.0, 7.2))
SPACE = MaskSpace(DEPTH)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(DEPTH, gain=2.0))


@pytest.fixture(scope="module")
def texts(target: Target) -> list[ScoredText]:
    prompts = tiny_prompts(FIRST + 5, 4, 9)
    return [ScoredText((*p, *hf_greedy(target, p, 6 + i)), len(p)) for i, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def masks() -> list[SkipMask]:
    rng = Random(0)
    found = [SPACE.random(rng) for _ in range(40)]
    return list(dict.fromkeys([SkipMask.empty(DEPTH), *found]))


def judge(objective: str = "speed") -> Objective:
    ratio = 0.5 if objective == "matchness" else None
    return Objective(SearchConfig(objective=objective, skip_ratio=ratio), PRICES)


def in_batches(heats: PairedPruner, masks: list[SkipMask]) -> dict[SkipMask, float]:
    values = {}
    for start in range(0, len(masks), 8):
        batch = masks[start : start + 8]
        values |= {trial.mask: trial.value for trial in heats.judge(batch)}
    return values


@pytest.mark.parametrize("objective", ["speed", "matchness"])
def test_masks_that_go_all_the_way_are_worth_what_all_texts_say(
    target: Target, texts: list[ScoredText], masks: list[SkipMask], objective: str
) -> None:
    values = in_batches(PairedPruner(target, texts, judge(objective)), masks)
    traces = Scorer(target, texts).score(masks)
    exact = {m: judge(objective).evaluate(m, t).value for m, t in zip(masks, traces, strict=True)}
    same = [mask for mask in masks if values[mask] == pytest.approx(exact[mask])]
    assert FIRST < len(same) < len(masks), "some went all the way, some did not"
    best = max(exact, key=exact.__getitem__)
    assert max(values, key=values.__getitem__) in same
    assert max(values.values()) <= exact[best] + 1e-9


def test_those_behind_see_no_more_texts(
    target: Target, texts: list[ScoredText], masks: list[SkipMask], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Counting(Scorer):
        def score(self, masks: list[SkipMask], share_prefixes: bool = True) -> list[Trace]:
            seen.append(len(masks) * self.positions)
            return super().score(masks, share_prefixes)

    monkeypatch.setattr(pruner, "Scorer", Counting)
    in_batches(PairedPruner(target, texts, judge()), masks)
    assert sum(seen) < 0.8 * len(masks) * sum(len(t.continuation) for t in texts)


class Given:
    """Replaces `Objective`: given values on the first texts; records masks scored on all."""

    def __init__(self, values: dict[SkipMask, tuple[float, ...]]) -> None:
        self.config = SearchConfig()
        self.all_the_way: list[SkipMask] = []
        self._values = values

    def evaluate(self, mask: SkipMask, trace: Trace) -> Trial:
        if len(trace.lengths) > FIRST:
            self.all_the_way.append(mask)
        return Trial(mask, fmean(self._values[mask]))

    def per_text_values(self, trial: Trial, trace: Trace) -> tuple[float, ...]:
        return self._values[trial.mask]


@pytest.mark.parametrize(("errors", "leaves"), [(1.8, False), (2.2, True), (0.0, False)])
def test_who_is_not_surely_behind_stays(
    target: Target, texts: list[ScoredText], errors: float, leaves: bool
) -> None:
    """Behind by so many standard errors on the first texts."""
    best, other = SkipMask.of(DEPTH, [1]), SkipMask.of(DEPTH, [2])
    spread = (0.1, -0.1, 0.1, -0.1)
    behind = errors * stdev(spread) / FIRST**0.5
    judge: Any = Given({best: (1.5,) * FIRST, other: tuple(1.5 + s - behind for s in spread)})
    heats = PairedPruner(target, texts, judge)
    heats.judge([best])
    heats.judge([other])
    assert judge.all_the_way == ([best] if leaves else [best, other])


def test_few_texts_are_seen_by_all(target: Target, texts: list[ScoredText]) -> None:
    heats = PairedPruner(target, texts[:FIRST], judge())
    mask = SkipMask.of(DEPTH, [1], [2])
    expected = judge().evaluate(mask, Scorer(target, texts[:FIRST]).score([mask])[0])
    assert heats.judge([mask]) == [expected]


def test_estimates_never_beat_what_was_measured(
    target: Target, texts: list[ScoredText], masks: list[SkipMask]
) -> None:
    heats = PairedPruner(target, texts, judge())
    best = 0.0
    for mask in masks:
        trial = heats.judge([mask])[0]
        estimated = trial.value not in {
            judge().evaluate(mask, trace).value for trace in Scorer(target, texts).score([mask])
        }
        if estimated:
            assert trial.value <= best
            assert trial.prediction is not None
            assert trial.prediction.speedup == trial.value
        best = max(best, trial.value)


def test_joined_traces_are_those_of_all_texts(target: Target, texts: list[ScoredText]) -> None:
    mask = SkipMask.of(DEPTH, [1], [2])
    parts = [Scorer(target, some, 3).score([mask])[0] for some in (texts[:2], texts[2:])]
    whole, joined = Scorer(target, texts, 3).score([mask])[0], Trace.concatenate(parts)
    assert (joined.valid == whole.valid).all()
    assert (joined.matched == whole.matched).all() or (
        joined.matched[joined.valid] == whole.matched[whole.valid]
    ).all()
    assert joined.matchness == pytest.approx(whole.matchness)
    hits = [round(m * n) for m, n in zip(joined.matchness_per_text, joined.lengths, strict=True)]
    assert sum(hits) == round(joined.matchness * joined.lengths.sum())
