"""Repetition at the end of a text is found and cut."""

from __future__ import annotations

from random import Random

import pytest

from skipopt.repetition import repeats_from

FRESH = [Random(1).sample(range(1000), 40), Random(2).sample(range(1000), 40)]


@pytest.mark.parametrize("period", range(1, 17))
def test_three_cycles_are_a_loop_from_the_second_on(period: int) -> None:
    cycle = list(range(5000, 5000 + period))
    cycles = max(3, 8 // period + 1)
    assert repeats_from(FRESH[0] + cycle * cycles) == len(FRESH[0]) + period


@pytest.mark.parametrize("period", range(1, 17))
def test_two_cycles_are_a_loop_only_when_long(period: int) -> None:
    cycle = list(range(5000, 5000 + period))
    expected = len(FRESH[0]) + period if 2 * period >= 24 else None
    assert repeats_from(FRESH[0] + cycle * 2) == expected


def test_a_last_cycle_may_be_cut() -> None:
    assert repeats_from([*FRESH[0], *[7, 8, 9] * 3, 7, 8]) == 43


def test_less_than_three_cycles_or_eight_tokens_is_no_loop() -> None:
    assert repeats_from([*FRESH[0], *[7] * 7]) is None
    assert repeats_from([*FRESH[0], *[7] * 8]) == 41
    assert repeats_from([*FRESH[0], 7, 8, 9, 10, 7, 8, 9, 10, 7, 8, 9]) is None


def test_a_loop_that_ended_is_no_repetition() -> None:
    assert repeats_from([*FRESH[0], *[7, 8] * 10, 9]) is None


def test_periods_longer_than_sixteen_are_ignored() -> None:
    text = FRESH[0][:17] * 4
    assert repeats_from(text) is None
    assert repeats_from(text, longest_period=17) == 17


def test_a_text_that_loops_from_its_start_keeps_one_cycle() -> None:
    assert repeats_from([1, 2, 3] * 10) == 3
    assert repeats_from([]) is None
