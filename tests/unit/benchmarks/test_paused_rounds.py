"""Rounds without a draft, compared with plain steps of the same tokens."""

from __future__ import annotations

import math

import pytest

from benchmarks.paused_rounds import compared, paused_ratio
from skipopt.measurement.timing import Decoding, Reached
from skipopt.rounds import Round


def decoding(*rounds: tuple[float, int, tuple[int, ...]]) -> Decoding:
    """A text of rounds: seconds, emitted tokens, drafted tokens."""
    timeline, made, at, count = [], [], 0.0, 0
    for seconds, emitted, drafted in rounds:
        at, count = at + seconds, count + emitted
        timeline.append(Reached(count, at))
        made.append(Round(drafted, emitted - 1, (0,) * emitted))
    return Decoding((0,) * count, 0.0, at, count, tuple(timeline), tuple(made))


PLAIN = decoding((9.0, 1, ()), (1.0, 1, ()), (2.0, 1, ()), (4.0, 1, ()), (8.0, 1, ()))


def test_rounds_are_compared_with_the_step_of_the_same_token() -> None:
    own = decoding((1.0, 1, ()), (9.0, 2, (0,)), (4.4, 1, ()), (8.8, 1, ()))
    ratio = paused_ratio(own, PLAIN)
    assert ratio is not None
    assert math.exp(ratio) == pytest.approx(1 / 1.1)
    found = compared([own], [PLAIN])
    assert (found["rounds"], found["without_draft"]) == (4, 3)


def test_a_text_of_drafts_alone_has_no_ratio_and_another_text_is_an_error() -> None:
    assert paused_ratio(decoding((1.0, 1, ()), (9.0, 4, (0, 0, 0))), PLAIN) is None
    with pytest.raises(SystemExit):
        compared([decoding((1.0, 2, ()))], [PLAIN])
