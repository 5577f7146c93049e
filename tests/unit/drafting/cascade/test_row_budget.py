"""Which rows of a round pay, given what forwards and drafts of the model took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import mul

import pytest

from skipopt.drafting.copies import Copy
from skipopt.drafting.guess_tree import Guess, GuessTree, nothing_beside
from skipopt.drafting.row_budget import MAX_DRAFT, DraftLength, RowBudget
from skipopt.drafting.suffix import Continuation
from skipopt.online.acceptance import DraftPrior, MarginAcceptance
from skipopt.online.state import OnlineState


def learned(row: float = 0.2, tree: float = 1.0) -> OnlineState:
    """A plain step takes a second, and each further row of a chain `row` seconds."""
    state = OnlineState()
    for _ in range(60):
        state.observe(1, 1, 0.0, 1.0, copied=False)
        for rows in (2, 4, 8):
            state.verify.observe(rows, 1 + row * (rows - 1))
            state.verify.observe_tree(rows, tree * (1 + row * (rows - 1)))
    return state


def chain(*chances: float) -> GuessTree:
    trunk = [Guess(10 + i, chance, "copied") for i, chance in enumerate(chances)]
    return GuessTree(1, trunk, nothing_beside, len(trunk))


def one_beside(token: int, others: Sequence[Guess]) -> Iterable[Guess]:
    return [Guess(99, 0.6, "recycled")] if token == 1 else []


@pytest.mark.parametrize(("gain", "count"), [(1.1, 0), (1.5, 1)])
def test_a_row_must_gain_more_than_it_costs(gain: float, count: int) -> None:
    """`gain` in tokens for those that are decoded in the time of the row otherwise."""
    state = learned()
    state.observe_drafted(1, 1.0)  # drafts of the model are worth a plain step
    row = state.rate * (state.verify(2) - state.verify(1))
    assert RowBudget(state, 4).pays(chain(gain * row))[0] == count


def test_rows_compete_with_drafts_of_the_model() -> None:
    """These give three tokens a second, so that 0.2 seconds are worth 0.6."""
    state = learned()
    budget, tree = RowBudget(state, 4), chain(0.5)
    assert budget.pays(tree)[0] == 1
    state.observe_drafted(6, 2.0)
    assert budget.pays(tree)[0] == 0


def test_before_a_draft_was_made_one_that_is_right_is_expected() -> None:
    """Of one token: 2 in 1.72 plain steps; of eight: 9 in 5.71."""
    fresh = OnlineState()
    row = fresh.verify(2) - fresh.verify(1)
    tree = chain(1.7 * row)
    assert RowBudget(fresh, 1).pays(tree)[0] == 1
    assert RowBudget(fresh, 8).pays(tree)[0] == 0


@pytest.mark.parametrize(("tree_cost", "count"), [(1.0, 3), (1.5, 2)])
def test_a_branch_makes_all_rows_dearer(tree_cost: float, count: int) -> None:
    trunk = [Guess(10, 0.9, "copied"), Guess(11, 0.9, "copied")]
    tree = GuessTree(1, trunk, one_beside, 2)
    assert tree.chain_length == 2
    assert len(tree.guesses) == 3
    assert RowBudget(learned(row=0.05, tree=tree_cost), 4).pays(tree)[0] == count


def test_a_draft_ends_where_a_step_is_accepted_more_seldom_than_it_costs() -> None:
    acceptance = MarginAcceptance(DraftPrior(error=0.1, accepted=0.97))
    sure = DraftLength(acceptance, [0.5] * 9, drawn=1)
    assert all(sure(9.0) for _ in range(9))
    unsure = DraftLength(acceptance, [0.5] * 9, drawn=1)
    assert unsure(9.0)
    assert not unsure(0.0)
    dear = DraftLength(acceptance, [0.5, 0.5, 1.2], drawn=1)
    assert [dear(9.0) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("accepted", "length"), [(0.97, 6), (0.9, 3), (0.3, 1)])
def test_drafts_of_drawn_tokens_have_the_length_that_gives_most_per_second(
    accepted: float, length: int
) -> None:
    """Steps of 0.45 and rows of 0.075 plain steps."""
    state = learned(row=0.075)
    state.draft_acceptance = MarginAcceptance(DraftPrior(error=0.1, accepted=accepted))
    state.draft_step.add_seconds(0.45)
    draft = RowBudget(state, MAX_DRAFT).draft_length()
    drafted = 1
    while draft(None):
        drafted += 1
    assert drafted == pytest.approx(length, abs=1)


@pytest.mark.parametrize(
    ("step", "row", "goes_on"), [(0.2, 0.05, True), (0.6, 0.05, False), (0.2, 0.5, False)]
)
def test_steps_and_rows_are_paid_at_the_speed_of_drafted_rounds(
    step: float, row: float, goes_on: bool
) -> None:
    """At two tokens a second, steps that are nearly always right pay below half a second."""
    state = learned(row=row)
    state.draft_acceptance = MarginAcceptance(DraftPrior(error=0.1, accepted=0.97))
    state.draft_step.add_seconds(step)
    state.observe_drafted(4, 2.0)
    assert RowBudget(state, MAX_DRAFT).draft_length()(5.0) == goes_on


def test_fast_copies_do_not_shorten_drafts() -> None:
    """Rounds that copy decode ten tokens a second, but none follow behind a draft."""
    state = learned(row=0.05)
    state.draft_acceptance = MarginAcceptance(DraftPrior(error=0.1, accepted=0.97))
    state.draft_step.add_seconds(0.2)
    state.observe_drafted(4, 2.0)
    for _ in range(40):
        state.observe(12, 12, 0.0, 1.2, copied=True)
    assert state.rate > 5
    assert RowBudget(state, MAX_DRAFT).draft_length()(5.0)


@pytest.mark.parametrize(
    ("chances", "count"), [((1.0, 1.0), 2), ((0.6, 0.9), 2), ((0.6, 0.5), 1), ((0.4, 1.0), 0)]
)
def test_copied_tokens_are_read_ahead_where_they_save_more_than_they_cost(
    chances: Sequence[float], count: int
) -> None:
    """A step takes half a second and a row 0.2, so one in two must be right."""
    state = learned(row=0.2)
    for _ in range(40):
        state.draft_step.add_seconds(0.5)
    assert state.verify.per_row == pytest.approx(0.2, rel=0.1)
    # After matches of sixteen tokens nearly all is right, but for the share that goes on so.
    shares = tuple(accumulate(chances, mul))
    tokens = (1, 2)
    copy = Copy(Continuation(tokens, 1.0, 16, shares, ("copied",) * 2))
    assert RowBudget(state, 4).read_ahead(copy) == list(tokens[:count])
