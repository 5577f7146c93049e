"""Rounds drawn as lines: chains, trees, ends of text."""

from __future__ import annotations

from skipopt.reporting.rounds import branches, labeled, round_lines
from skipopt.rounds import Round


def drawn(round_: Round) -> list[str]:
    return [line.plain for line in round_lines(1, round_, lambda ids: f"t{ids[0]}")]


def test_a_chain_is_one_line() -> None:
    round_ = Round((1, 2, 3), 2, (1, 2, 9))
    assert drawn(round_) == ["   1  ✓t1 ✓t2 ✗t3 →t9"]


def test_a_chain_accepted_whole_ends_with_the_targets_own_token() -> None:
    assert drawn(Round((1, 2), 2, (1, 2, 9))) == ["   1  ✓t1 ✓t2 +t9"]


def test_nothing_drafted() -> None:
    assert drawn(Round((), 0, (9,))) == ["   1  +t9"]


def test_a_round_before_drafts_begin_says_so() -> None:
    assert drawn(Round((), 0, (9,), put_off=True)) == ["   1  +t9  (drafts do not pay yet)"]


def test_other_branches_of_a_tree_are_drawn_below_their_parent() -> None:
    # 1 ─ 3 ─ 5      accepted: 2, 4
    # 2 ─ 4 , 6 ─ 7
    tree = Round(
        (1, 2, 3, 4, 5, 6, 7),
        2,
        (2, 4, 9),
        parents=(-1, -1, 0, 1, 2, 1, 5),
        path=(1, 3),
    )
    assert drawn(tree) == [
        "   1  ✓t2 ✓t4 +t9",
        "      └ ✗t1 ✗t3 ✗t5",
        "        └ ✗t6 ✗t7",
    ]
    assert [depth for depth, _ in branches(tree)] == [1, 2]


def test_every_drafted_token_is_drawn_once() -> None:
    tree = Round(tuple(range(8)), 1, (1, 9), parents=(-1, -1, 0, 0, 1, 1, 4, 2), path=(1,))
    symbols = " ".join(drawn(tree))
    assert [symbols.count(f"t{i}") for i in range(8)] == [1] * 8
    assert symbols.count("✓") == 1
    assert symbols.count("→") == 1


def test_accepted_tokens_behind_an_end_of_text_are_left_out() -> None:
    round_ = Round((1, 2, 3), 3, (1, 2), stop="eos")
    assert list(labeled(round_)) == [("✓", 1), ("✓", 2)]


def test_origins_are_counted() -> None:
    round_ = Round((1, 2, 3), 1, (1, 9), sources=("kept", "refined", "refined"))
    assert drawn(round_) == ["   1  ✓t1 ✗t2 ✗t3 →t9  (1 kept, 2 refined)"]
