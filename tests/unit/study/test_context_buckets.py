"""Masks for longer texts: which lengths are tried, and when another mask is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.tiny import byte_tokenizer, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.cost_model.costs import Costs
from skipopt.cost_model.prediction import Prediction
from skipopt.draft_config import DraftConfig
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.storage.base import Trial
from skipopt.study.config import SearchConfig, check_context_lengths
from skipopt.study.context_buckets import ContextBucket, ContextBucketSearch, stretch_prompts
from skipopt.testing.costs import FixedCosts

PREDICTED = Prediction(1.0, (1.0,), 3, 0.0, 0.5, 0.5)
CONFIG = SearchConfig(max_gamma=3)
ALL_SKIPPED = SkipMask.of(3, range(3), range(3))  # its drafts are rarely accepted


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(3, gain=2.0))


@pytest.mark.parametrize("length", [3, 10, 57])
def test_prompts_are_extended_in_front_by_other_prompts(length: int) -> None:
    prompts = [[1, 2, 3, 4, 5], [6, 7, 8], [9]]
    found = list(stretch_prompts(prompts, length, 5))
    assert [len(each) for each in found] == [length] * 3
    for prompt, each in zip(prompts, found, strict=True):
        known = min(length, len(prompt))
        assert each[-known:] == tuple(prompt[-known:])
    if length > 9:
        assert all(set(each) == set(range(1, 10)) for each in found[:1])


def test_a_single_prompt_is_extended_by_itself() -> None:
    assert list(stretch_prompts([[1, 2]], 5, 3)) == [(2, 1, 2, 1, 2)]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([512, 512], "must ascend, not 512, 512"),
        ([512, 100], "must ascend, not 512, 100"),
        ([0, 5], "must ascend, not 0, 5"),
        ([512, 2048], "holds texts of 1000 tokens at most, not 2048"),
    ],
)
def test_impossible_lengths_are_refused(lengths: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_context_lengths(lengths, 1000)


def attention_grows(context: int, longest: int, draft_config: DraftConfig) -> Costs:
    """Costs in which attention is cheap in short texts and grows with the context length."""
    attention = 0.01 * context
    plain = 0.3 + 3 * (attention + 1.0)
    verify = tuple(plain * (1 + 0.01 * n) for n in range(longest))
    return Costs(0.3, attention, 1.0, 0.0, verify, context=context)


def choose(
    target: Target,
    lengths: tuple[int, ...],
    base: SkipMask,
    others: list[SkipMask],
    costs: FixedCosts | None = None,
    config: SearchConfig = CONFIG,
) -> list[ContextBucket]:
    search = ContextBucketSearch(
        target,
        replace(config, context_lengths=lengths),
        costs or FixedCosts(attention_grows),
        tiny_prompts(4, 6, 12),
        others,
        lambda: None,
    )
    return search.buckets(Trial(base, 1.0, PREDICTED))


def test_a_better_mask_is_taken(target: Target) -> None:
    (bucket,) = choose(target, (40,), ALL_SKIPPED, [SkipMask.of(3, [1], [])])
    assert bucket.min_context == 40
    assert bucket.trial.prediction is not None
    assert (bucket.trial.mask, bucket.trial.prediction.gamma) != (ALL_SKIPPED, 3)
    assert bucket.trial.prediction.speedup > 0


def test_a_context_length_without_a_better_mask_is_left_out(target: Target) -> None:
    """The second length is one token longer, so the mask of the first is still the best."""
    fixed = FixedCosts(lambda context, longest, _: attention_grows(40, longest, _))
    found = choose(target, (40, 41), ALL_SKIPPED, [], fixed)
    assert [bucket.min_context for bucket in found] == [40]


def test_a_small_gain_is_not_worth_another_mask(target: Target) -> None:
    only_better = replace(CONFIG, context_min_gain=0.0)
    assert choose(target, (40,), ALL_SKIPPED, [], config=only_better)
    far_better = replace(CONFIG, context_min_gain=1000.0)
    assert not choose(target, (40,), ALL_SKIPPED, [], config=far_better)


def test_costs_are_measured_at_each_length(target: Target) -> None:
    costs = FixedCosts(attention_grows)
    choose(target, (40, 150), SkipMask.empty(3), [], costs)
    assert len(costs.contexts) == 2
    assert all(
        length <= measured <= length + 32
        for length, measured in zip((40, 150), costs.contexts, strict=True)
    )


@pytest.mark.slow
def test_a_search_writes_the_buckets_that_it_found() -> None:
    target = tiny_target(tiny_llama(3, vocabulary=257, gain=2.0), byte_tokenizer())
    words = ("alpha", "beta", "gamma", "delta", "eta", "theta", "iota", "mu")
    texts = [f"{word} and {word} again" for word in words]
    costs = FixedCosts(attention_grows)
    found = skipopt.search(target, texts, trials=10, context_lengths=[100], cost_source=costs)
    assert all(bucket.min_context == 100 for bucket in found.contexts)
    assert Profile.parse(found.to_yaml(), "again") == found
    with pytest.raises(UsageError, match="at most"):
        skipopt.search(target, texts, trials=10, context_lengths=[10_000])
