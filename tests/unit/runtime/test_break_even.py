"""When drafts begin: decided from measured times and the tokens that are left."""

from __future__ import annotations

import pytest

from skipopt.draft_config import WeightBits
from skipopt.masks import SkipMask
from skipopt.runtime.break_even import BreakEven, Preparation, pays_back

MASK = Preparation(SkipMask.of(3, [1], []))
INT8 = Preparation(SkipMask.empty(3), WeightBits(8, 8))


@pytest.mark.parametrize(
    ("tokens_left", "tokens_put_off", "expected"),
    [
        (149, 0, False),  # saves 1.49 s, and 1.5 times the cost is asked for
        (150, 0, True),
        (1, 99, False),
        (1, 100, True),  # plain decoding has cost a second too much
    ],
)
def test_drafts_begin_when_they_return_a_cost_of_one_second(
    tokens_left: int, tokens_put_off: int, expected: bool
) -> None:
    assert pays_back(0.01, 1.0, tokens_left, tokens_put_off) is expected


def test_drafts_that_lose_are_not_prepared() -> None:
    assert not pays_back(-0.01, 0.5, 1000, 1000)


def test_nothing_is_decided_before_a_plain_round_was_measured() -> None:
    held = BreakEven()
    assert not held.pays(2.0, 0.001, 1000, 0)
    held.observe_plain(1, 0.02)
    assert held.pays(2.0, 0.001, 1000, 0)


def test_the_gain_is_that_of_the_expected_speedup() -> None:
    held = BreakEven()
    held.observe_plain(1, 0.02)
    assert held.pays(2.0, 0.4, 61, 0)  # saves 10 ms per token
    assert not held.pays(2.0, 0.4, 59, 0)
    assert held.pays(1.25, 0.4, 151, 0)  # 4 ms
    assert not held.pays(1.25, 0.4, 149, 0)


def test_drafts_measured_to_lose_begin_after_many_plain_tokens() -> None:
    held = BreakEven()
    for _ in range(500):
        held.observe_plain(1, 0.02)
    assert not held.pays(0.9, 0.4, 1, 400)
    assert held.pays(0.9, 0.4, 1, held.tokens_put_off)


def test_each_kind_of_drafts_is_prepared_once_until_it_is_forgotten() -> None:
    held = BreakEven()
    held.prepare(MASK)
    assert held.is_prepared(Preparation(SkipMask.of(3, [1], [])))
    assert not held.is_prepared(INT8)
    held.forget()
    assert not held.is_prepared(MASK)


def test_measurements_of_the_steady_state_draft_at_once() -> None:
    held = BreakEven()
    with held.drafting_at_once():
        assert held.is_prepared(INT8)
    assert not held.is_prepared(INT8)
