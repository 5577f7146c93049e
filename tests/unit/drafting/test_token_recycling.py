"""Guesses in one tree, the rows of it that pay, and tokens recycled from verifications."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import torch
from support.tiny import tiny_llama, tiny_target

from skipopt.decoding.api import generate_rounds
from skipopt.drafting.base import RoundOutcome
from skipopt.drafting.guess_tree import DRAFTED, Guess, GuessTree, nothing_beside
from skipopt.drafting.recycled_tokens import SUCCESSORS, RecycledTokens, likeliest
from skipopt.drafting.recycling import Recycling
from skipopt.drafting.registry import make_drafter
from skipopt.drafting.token_recycling import TokenRecyclingDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.errors import ModelError, UsageError
from skipopt.methods import parse_method
from skipopt.online.state import OnlineState
from skipopt.runtime.load import make_target
from skipopt.runtime.verify_costs import VerifyCostEstimator
from tools.tiny_models import tiny_model


class FreeRows(VerifyCostEstimator):
    """Further rows cost nothing."""

    @property
    def per_row(self) -> float:
        return 0.0

    def up_to(self, most: int) -> list[float]:
        return [self.plain] * most


def chain(*chances: float) -> list[Guess]:
    return [Guess(10 + i, chance, "copied") for i, chance in enumerate(chances)]


def two_beside(token: int, others: Sequence[Guess]) -> Iterable[Guess]:
    return [Guess(token + 100, 0.3, "recycled"), Guess(token + 200, 0.1, "recycled")]


def outcome(
    draft: DraftTree, path: tuple[int, ...], emitted: tuple[int, ...], vocab: int = 50
) -> RoundOutcome:
    """Each row's likeliest token is its own row number."""
    logits = torch.zeros(1 + len(draft.tokens), vocab)
    for row in range(len(logits)):
        logits[row, row] = 1.0
    return RoundOutcome(draft, path, emitted, logits)


@pytest.mark.parametrize("vocab", [5, 300, 4096, 10_240, 10_247])
def test_the_likeliest_tokens_are_those_of_the_largest_logits(vocab: int) -> None:
    logits = torch.randn(6, vocab, generator=torch.Generator().manual_seed(vocab))
    logits[3, -1] = 99.0
    count = min(SUCCESSORS, vocab)
    assert likeliest(logits, SUCCESSORS) == logits.topk(count).indices.tolist()


def test_the_chain_of_a_tree_ends_at_its_first_branch() -> None:
    assert GuessTree(1, chain(0.9, 0.9, 0.9), nothing_beside, depth=3).chain_length == 3
    branched = GuessTree(1, chain(0.9, 0.9, 0.1), two_beside, depth=3, most=5)
    assert branched.parents[:2] == [-1, 0]
    assert branched.chain_length == 2


def test_a_tree_takes_the_most_probable_paths_first() -> None:
    tree = GuessTree(1, chain(0.5, 0.5), two_beside, depth=2, most=6)
    assert tree.chances == sorted(tree.chances, reverse=True)
    taken = [
        (guess.token, parent) for guess, parent in zip(tree.guesses, tree.parents, strict=True)
    ]
    assert taken == [(10, -1), (101, -1), (11, 0), (110, 0), (201, -1), (201, 1)]
    assert tree.chances == pytest.approx([0.5, 0.3, 0.25, 0.15, 0.1, 0.09])


@pytest.mark.parametrize("depth", range(4))
def test_a_tree_is_no_deeper_than_its_depth(depth: int) -> None:
    tree = GuessTree(1, chain(0.9, 0.9, 0.9, 0.9), two_beside, depth)
    assert max(tree.draft(99).depths(), default=0) == depth


def test_improbable_paths_are_left_out_but_those_of_the_trunk() -> None:
    tree = GuessTree(1, chain(0.5, 0.5, 0.1), two_beside, depth=5, least=0.2)
    assert tree.chances == pytest.approx([0.5, 0.3, 0.25, 0.025])


@pytest.mark.parametrize(("row", "count"), [(0.0, 4), (0.1, 3), (0.2, 2), (0.3, 1), (0.6, 0)])
def test_rows_are_verified_while_they_gain_more_than_they_cost(row: float, count: int) -> None:
    tree = GuessTree(1, chain(0.5, 0.5, 0.5, 0.5), nothing_beside, depth=4)
    seconds = [1 + row * rows for rows in range(5)]
    found, gain = tree.rows_that_pay(seconds, rate=1.0)
    assert found == count
    assert gain == pytest.approx(sum(0.5 ** (i + 1) - row for i in range(count)))
    assert tree.rows_that_pay(seconds, 1.0, at_least=3)[0] == max(3, count)


def test_rows_beyond_a_dear_one_may_pay() -> None:
    """Kernels take rows together: the second one costs much, the next ones nothing."""
    tree = GuessTree(1, chain(0.5, 0.9, 0.9, 0.9), nothing_beside, depth=4)
    assert tree.rows_that_pay([1.0, 1.9, 1.9, 1.9, 1.9], 1.0)[0] == 4
    assert tree.rows_that_pay([1.0, 3.0, 3.0, 3.0, 3.0], 1.0) == (0, 0.0)


@pytest.mark.parametrize(("source", "count"), [(DRAFTED, 2), ("copied", 1)])
def test_only_guesses_that_are_not_drafted_are_doubted(source: str, count: int) -> None:
    guesses = [Guess(i, 0.7, source) for i in range(4)]
    tree = GuessTree(1, guesses, nothing_beside, depth=4)
    seconds = [1 + 0.45 * rows for rows in range(5)]
    assert tree.rows_that_pay(seconds, 1.0, doubt=1.25)[0] == count


def test_successors_are_those_of_the_latest_row_and_of_accepted_rows_first() -> None:
    known = RecycledTokens()
    draft = DraftTree((7, 8, 7), (-1, 0, -1))  # the second 7 is a rejected sibling
    known.observe(5, outcome(draft, (0,), (7, 9)))
    assert known.after(5)[0] == 0
    assert known.after(7)[0] == 1, "of the accepted row, not of row 3"
    assert known.after(8)[0] == 2, "rejected rows count too"
    assert len(known.after(5)) == SUCCESSORS
    assert known.after(6) == ()
    assert len(known) == 3


def test_ranks_are_judged_by_what_was_emitted() -> None:
    learned = OnlineState()
    recycling = Recycling()
    recycling.observe(learned, 5, (), outcome(DraftTree(), (), (3,)))
    alone = [learned.recycled_acceptance.rate(rank) for rank in range(3)]
    beside = [learned.sibling_acceptance.rate(rank) for rank in range(3)]
    (first, second, *_) = [guess.token for guess in recycling.beside(learned, 5, ())]
    recycling.observe(learned, 5, (), outcome(DraftTree(), (), (second,)))
    after = [learned.recycled_acceptance.rate(rank) for rank in range(3)]
    assert after[0] < alone[0]
    assert after[1] > alone[1]
    assert [learned.sibling_acceptance.rate(rank) for rank in range(3)] == beside
    # Beside a wrong guess the others move up; a right one says nothing about them.
    wrong, right = Guess(first, 0.5, "drafted"), Guess(second, 0.5, "drafted")
    recycling.observe(learned, 5, [right], outcome(DraftTree(), (), (second,)))
    assert [learned.sibling_acceptance.rate(rank) for rank in range(3)] == beside
    recycling.observe(learned, 5, [wrong], outcome(DraftTree(), (), (second,)))
    assert learned.sibling_acceptance.rate(0) > beside[0]


def test_guesses_beside_another_share_what_it_leaves() -> None:
    learned, recycling = OnlineState(), Recycling()
    recycling.observe(learned, 5, (), outcome(DraftTree(), (), (3,)))
    alone = list(recycling.beside(learned, 5, ()))
    beside = list(recycling.beside(learned, 5, [Guess(alone[0].token, 0.75, "copied")]))
    assert [guess.token for guess in beside] == [guess.token for guess in alone[1:]]
    assert beside[0].chance == pytest.approx(0.25 * alone[0].chance)
    assert not list(recycling.beside(learned, 6, ()))


def test_alternatives_stand_beside_a_guess_of_the_trunk_and_end_there() -> None:
    second = Guess(30, 0.4, "runner-up")
    trunk = [Guess(20, 0.5, "drafted", (second,)), Guess(21, 0.9, "drafted")]
    tree = GuessTree(1, trunk, nothing_beside, depth=2)
    assert [guess.token for guess in tree.guesses] == [20, 21, 30]
    assert tree.parents == [-1, 0, -1]
    assert tree.chances == pytest.approx([0.5, 0.45, 0.4])


def test_a_recycled_token_is_not_guessed_twice_beside_an_alternative() -> None:
    learned, recycling = OnlineState(), Recycling()
    recycling.observe(learned, 5, (), outcome(DraftTree(), (), (3,)))
    first, second, *others = [guess.token for guess in recycling.beside(learned, 5, ())]
    beside = recycling.beside(
        learned, 5, [Guess(first, 0.5, "drafted"), Guess(second, 0.4, "runner-up")]
    )
    assert [guess.token for guess in beside] == others


def test_recycled_tokens_are_accepted_in_text_that_repeats() -> None:
    target = tiny_target(tiny_llama(gain=0.2))
    plain = [t for r in generate_rounds(target, [1, 2, 3], max_new_tokens=60) for t in r.emitted]
    target.runtime.verify_costs = FreeRows()
    rounds = list(generate_rounds(target, [1, 2, 3], method="token-recycling", max_new_tokens=60))
    assert [token for each in rounds for token in each.emitted] == plain
    assert any(each.path for each in rounds)


def test_costs_are_learned_from_all_texts_of_a_process() -> None:
    target = tiny_target()
    for name in ("token-recycling", "cascade:exit_layer=2"):
        assert make_drafter(target, parse_method(name)).online_state.verify is (
            target.runtime.verify_costs
        )
    list(generate_rounds(target, [1, 2, 3], method="token-recycling", max_new_tokens=8))
    assert target.runtime.verify_costs.knows_plain
    target.runtime.forget()
    assert not target.runtime.verify_costs.knows_plain


def test_a_tree_of_no_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="max_rows"):
        TokenRecyclingDrafter(tiny_target(), max_rows=0)


def test_a_model_that_cannot_verify_trees_is_refused_before_any_round() -> None:
    """Whatever its steps take: where rows are dear, no tree would be drafted."""
    target = make_target(tiny_model("qwen3_next"), None, runtime="eager")
    with pytest.raises(ModelError, match="states"):
        TokenRecyclingDrafter(target)
