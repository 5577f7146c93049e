"""Masks for longer texts: where they are looked for, and when one is taken."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from support.tiny import byte_tokenizer, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.bench import cost_measurement
from skipopt.cost_model.costs import Costs
from skipopt.cost_model.prediction import Prediction
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.storage.base import Trial
from skipopt.study import objective
from skipopt.study.config import SearchConfig, check_context_lengths
from skipopt.study.context_buckets import ContextLengths, stretched

LONGEST = 4
PREDICTED = Prediction(1.0, (1.0,), 3, 0.0, 0.5, 0.5)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(3, gain=2.0))


@pytest.mark.parametrize("length", [3, 10, 57])
def test_prompts_are_stretched_by_the_others_and_end_as_they_did(length: int) -> None:
    prompts = [[1, 2, 3, 4, 5], [6, 7, 8], [9]]
    found = list(stretched(prompts, length, 5))
    assert [len(each) for each in found] == [length] * 3
    for prompt, each in zip(prompts, found, strict=True):
        known = min(length, len(prompt))
        assert each[-known:] == tuple(prompt[-known:])
    if length > 9:
        assert all(set(each) == set(range(1, 10)) for each in found[:1])


def test_one_prompt_is_stretched_by_itself() -> None:
    assert list(stretched([[1, 2]], 5, 3)) == [(2, 1, 2, 1, 2)]


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([512, 512], "must ascend, not 512, 512"),
        ([512, 100], "must ascend, not 512, 100"),
        ([0, 5], "must ascend, not 0, 5"),
        ([512, 2048], "holds texts of 1000 tokens at most, not 2048"),
    ],
)
def test_lengths_that_mean_nothing_are_refused(starts: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_context_lengths(starts, 1000)


def made_up(
    target: Target,
    context: Any,
    longest: int,
    seconds: float = 0.0,
    draft_config: DraftConfig = UNCHANGED,
) -> Costs:
    """Attention costs next to nothing in short texts, and ever more in longer ones."""
    attention = 0.01 * len(context)
    plain = 0.3 + 3 * (attention + 1.0)
    verify = tuple(plain * (1 + 0.01 * n) for n in range(longest))
    return Costs(0.3, attention, 1.0, 0.0, verify, context=len(context))


def choose(target: Target, starts: list[int], base: SkipMask, others: list[SkipMask]) -> Profile:
    plan = SearchConfig()
    lengths = ContextLengths(target, plan, tiny_prompts(4, 6, 12), others, LONGEST)
    found = lengths.buckets(starts, Trial(base, 1.0, PREDICTED), lambda: None)
    return Profile.build(target, base, gamma=3, tau=0.0, contexts=found)


EVERYTHING = SkipMask.of(3, range(3), range(3))  # whose drafts are hardly ever right


def test_another_mask_is_taken_where_it_promises_more(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_measurement, "measure_costs", made_up)
    found = choose(target, [40], EVERYTHING, [SkipMask.of(3, [1], [])])
    (bucket,) = found.contexts
    way = found.draft_settings[1]
    assert (way.min_context, bucket.min_context) == (40, 40)
    assert (way.mask, way.gamma) != (EVERYTHING, 3)
    assert bucket.predicted is not None
    assert bucket.predicted.speedup > 0


def test_a_bucket_is_left_out_where_nothing_is_better(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second length is the first, but for a token: its best mask is in force already."""
    same = made_up(target, [0] * 40, LONGEST)
    monkeypatch.setattr(cost_measurement, "measure_costs", lambda *_, **__: same)
    found = choose(target, [40, 41], EVERYTHING, [])
    assert [bucket.min_context for bucket in found.contexts] == [40]


@pytest.mark.parametrize(("gain", "taken"), [(0.02, True), (0.005, False), (0.0, False)])
def test_another_mask_is_taken_where_it_is_worth_the_change(
    target: Target, monkeypatch: pytest.MonkeyPatch, gain: float, taken: bool
) -> None:
    base, other = SkipMask.of(3, [1]), SkipMask.of(3, [2])

    def judge(plan: SearchConfig, costs: Costs, *draft_config: Any) -> Any:
        values = {base: 1.0, other: 1.0 + gain}
        return SimpleNamespace(
            evaluate=lambda mask, trace: Trial(mask, values.get(mask, 0.5), PREDICTED)
        )

    monkeypatch.setattr(cost_measurement, "measure_costs", made_up)
    monkeypatch.setattr(objective, "Objective", judge)
    found = choose(target, [40], base, [other])
    assert [way.mask for way in found.draft_settings[1:]] == [other] * taken


def test_longer_texts_are_priced_as_long(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def remember(target: Target, context: Any, longest: int, *_: Any, **__: Any) -> Costs:
        asked.append(len(context))
        return made_up(target, context, longest)

    monkeypatch.setattr(cost_measurement, "measure_costs", remember)
    choose(target, [40, 150], SkipMask.empty(3), [])
    assert all(
        start <= length <= start + 32 for start, length in zip([40, 150], asked, strict=True)
    )


def test_search_writes_the_buckets_it_found(monkeypatch: pytest.MonkeyPatch) -> None:

    target = tiny_target(tiny_llama(3, vocabulary=257, gain=2.0), byte_tokenizer())
    monkeypatch.setattr(cost_measurement, "measure_costs", partial(made_up))
    words = ("alpha", "beta", "gamma", "delta", "eta", "theta", "iota", "mu")
    texts = [f"{word} and {word} again" for word in words]
    found = skipopt.search(target, texts, trials=10, context_lengths=[100])
    assert all(bucket.min_context == 100 for bucket in found.contexts)
    assert Profile.parse(found.to_yaml(), "again") == found
    with pytest.raises(UsageError, match="at most"):
        skipopt.search(target, texts, trials=10, context_lengths=[10_000])
