"""Calibration texts within a deadline, on a clock set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.timing_fakes import FakeClock, tiny_target

from skipopt.rounds import Round
from skipopt.study import calibration
from skipopt.study.calibration import calibrate
from skipopt.study.time_plan import Deadline, Pace

PROMPTS = [[10 * i, 1] for i in range(12)]
CATEGORIES = ["even", "odd"] * 6


def made_in_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, each: float
) -> tuple[int, float]:
    """How many texts are made within `seconds` if each takes `each`, and the seconds left.

    They are expected to take one second.
    """
    clock = FakeClock()

    def generate_rounds(target: Any, prompt: Sequence[int], **_: Any) -> list[Round]:
        clock.now += each
        return [Round((), 0, tuple(range(prompt[0], prompt[0] + 20)))]

    monkeypatch.setattr(calibration, "generate_rounds", generate_rounds)
    deadline = Deadline(clock.now + seconds, clock)
    texts = calibrate(
        tiny_target(), PROMPTS, 20, lambda: None, deadline, Pace(1 / 20, 0.0), CATEGORIES
    )
    made = len(texts.workload.prompts)
    assert texts.workload.categories == tuple(CATEGORIES[:made])
    return made, deadline.left


def test_as_many_texts_are_made_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made_in_time(monkeypatch, 9.5, 1.0) == (9, pytest.approx(0.5))


def test_a_slower_machine_makes_fewer_texts_and_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After four texts 1.4 s are left: one was planned to take 1 s, but takes 2 s."""
    made, left = made_in_time(monkeypatch, 9.8, 2.1)
    assert made == 4
    assert left == pytest.approx(1.4)
