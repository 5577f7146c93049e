"""Statistics over rounds, and the kind of a round's last token."""

from __future__ import annotations

import pytest

from skipopt.rounds import Round, Statistics

CHAIN = Round((5, 6, 7), accepted=2, emitted=(5, 6, 9))
WHOLE = Round((5,), accepted=1, emitted=(5, 6))
TREE = Round((5, 6, 7), accepted=1, emitted=(6, 8), parents=(-1, -1, 0), path=(1,))
PLAIN = Round((), accepted=0, emitted=(4,))


@pytest.mark.parametrize(
    ("round_", "expected"),
    [
        (CHAIN, "recovered"),
        (WHOLE, "bonus"),
        (TREE, "bonus"),
        (PLAIN, "bonus"),
        (Round((5, 6), 0, (3,)), "recovered"),
        (Round((5, 6), 2, (5,)), None),  # the text ended inside the draft
    ],
)
def test_the_last_token_is_recovered_or_a_bonus(round_: Round, expected: str | None) -> None:
    assert round_.last_is == expected


def test_each_emitted_token_tells_where_it_came_from() -> None:
    assert CHAIN.origins == ("draft", "draft", "recovered")
    assert TREE.origins == ("draft", "bonus")
    assert PLAIN.origins == ("target",)
    copied = Round((5, 6), 2, (5,), sources=("copied", "kept"))
    assert copied.origins == ("copied",)  # the text ended inside the draft
    tree = Round((5, 6, 7), 1, (6, 8), parents=(-1, -1, 0), path=(1,), sources=("a", "b", "c"))
    assert tree.origins == ("b", "bonus")


def test_acceptance_by_position_counts_rounds_that_drafted() -> None:
    total = Statistics.of([CHAIN, WHOLE, TREE, PLAIN])
    assert total.acceptance_by_position == (1.0, 1 / 3, 0.0)
    assert total.acceptance_rate == 4 / 7
    assert total.mean_acceptance_length == 8 / 4


def test_nothing_drafted_has_no_acceptance() -> None:
    total = Statistics.of([PLAIN])
    assert total.acceptance_rate is None
    assert total.acceptance_by_position == ()


def test_short_descriptions_count_tokens() -> None:
    tree = Round(tuple(range(60)), 2, (7, 8, 9), parents=tuple(range(-1, 59)))
    assert repr(tree) == "Round(2 of 60 drafted, emitted (7, 8, 9))"
    total = repr(Statistics.of([tree, tree]))
    assert total == "Statistics(6 tokens in 2 forwards, 4 of 120 drafted accepted)"
