"""Rows and acceptance of rounds on hybrid and pure attention models."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks.hybrid_rounds import (
    KINDS,
    PROMPT,
    Counted,
    SetAcceptance,
    acceptance_along,
    costs_of,
    counted_rounds,
    emitted,
    model_of,
    report,
)
from skipopt.drafting.plain import NoDrafter
from skipopt.masks import SkipMask
from skipopt.rounds import Round
from skipopt.runtime.load import make_target

SIZES = Namespace(layers=4, hidden=64)
TOKENS, GAMMA = 13, 3


def counted(drafted: int, accepted: int, rows: int = 4) -> Counted:
    made = Round((0,) * drafted, accepted, (0,) * (accepted + 1), 0, 0.2, 0.3)
    return Counted(made, drafted, rows)


def test_acceptance_is_that_of_the_rounds_that_begin_in_each_hundred_tokens() -> None:
    rounds = [*[counted(4, 4)] * 20, *[counted(4, 1)] * 5]
    assert acceptance_along(rounds) == [1.0, 0.25]


def test_the_first_round_is_not_timed() -> None:
    found = costs_of([counted(9, 0, 99), counted(3, 1), counted(3, 3, 6)], step=0.1)
    assert (found["tokens"], found["draft_rows"], found["verify_rows"]) == (3, 3, 5)
    assert found["round_steps"] == pytest.approx(5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hybrid_reads_only_the_accepted_tokens_again(kind: str) -> None:
    target = make_target(model_of(kind, SIZES), None, runtime="eager")
    assert target.keeps_states == (kind == "hybrid")
    text = emitted(counted_rounds(target, NoDrafter(), TOKENS))
    mask = SkipMask.of(target.depth, mlp=[3])
    rows = {}
    for acceptance in (0, 1):
        drafter = SetAcceptance([*PROMPT, *text], acceptance, mask, GAMMA)
        rounds = counted_rounds(target, drafter, TOKENS)
        assert emitted(rounds) == text
        assert all(each.round.accepted == acceptance * GAMMA for each in rounds[1:3])
        rows[acceptance] = rounds[2].draft, rounds[2].verify
    again = int(kind == "hybrid")  # the token of the round before, where its drafts were rejected
    assert rows == {0: (GAMMA + again, GAMMA + 1 + again), 1: (GAMMA, GAMMA + 1)}


def test_the_page_has_each_model_and_draft() -> None:
    costs = costs_of([counted(3, 1), counted(3, 1)], step=0.1)
    found = {"weights": 2e6, "plain_seconds": 0.1, "drafts": {"own draft": costs}}
    record = {"command": "x", "environment": {}, "models": dict.fromkeys(KINDS, found)}
    lines = list(report(record))
    assert sum("| own draft | 2.00 | 3.00 | 4.00 |" in line for line in lines) == len(KINDS)
    assert "- hybrid, own draft: 0.33" in lines
