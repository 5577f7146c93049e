"""Rounds without a draft, compared with plain steps of the same tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import pytest

from benchmarks.paused_rounds import Text, compared, in_step, paused_ratio
from skipopt.rounds import Round


def text(*rounds: tuple[float, int, tuple[int, ...]]) -> Text:
    """A decoded text of rounds: seconds, emitted tokens, drafted tokens."""
    made = [(Round(drafted, emitted - 1, (0,) * emitted), s) for s, emitted, drafted in rounds]
    tokens = [token for each, _ in made for token in each.emitted]
    return Text(iter(()), made, tokens, stopped=True)


PLAIN = text((9.0, 1, ()), (1.0, 1, ()), (2.0, 1, ()), (4.0, 1, ()), (8.0, 1, ()))


def test_rounds_are_compared_with_the_step_of_the_same_token() -> None:
    own = text((1.0, 1, ()), (9.0, 2, (0,)), (4.4, 1, ()), (8.8, 1, ()))
    ratio = paused_ratio(own, PLAIN)
    assert ratio is not None
    assert math.exp(ratio) == pytest.approx(1 / 1.1)
    found = compared([own], [PLAIN])
    assert (found["rounds"], found["without_draft"]) == (4, 2)
    assert found["text"]["median"] == pytest.approx(15.0 / 22.2)


def test_a_text_of_drafts_alone_has_no_ratio_and_another_text_is_an_error() -> None:
    assert paused_ratio(text((1.0, 1, ()), (9.0, 4, (0, 0, 0))), PLAIN) is None
    with pytest.raises(SystemExit):
        compared([text((1.0, 2, ()))], [PLAIN])


def test_texts_are_decoded_in_step() -> None:
    order: list[tuple[str, int]] = []
    ticks = count(0.0)

    def rounds(name: str, *emitted: int) -> Text:
        def made() -> Iterator[Round]:
            done = 0
            for number, each in enumerate(emitted, 1):
                order.append((name, done))
                done += each
                yield Round((), 0, (7,) * each, stop="length" if number == len(emitted) else None)

        return Text(made())

    in_step([rounds("plain", 1, 1, 1, 1), rounds("method", 1, 3)], lambda: next(ticks))
    assert [done for _, done in order] == [0, 0, 1, 1, 2, 3]
    assert {name for name, done in order if done == 1} == {"plain", "method"}
