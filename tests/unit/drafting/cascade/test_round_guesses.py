"""What a round teaches about copies and drafted tokens, verified or not."""

from __future__ import annotations

import pytest
import torch

from skipopt.drafting.base import RoundOutcome
from skipopt.drafting.copies import Copy
from skipopt.drafting.guess_tree import Guess
from skipopt.drafting.round_guesses import RoundGuesses
from skipopt.drafting.suffix import Continuation
from skipopt.drafting.tree import DraftTree
from skipopt.online.acceptance import copy_acceptance
from skipopt.online.state import OnlineState


def test_drafted_tokens_behind_a_wrong_one_are_not_judged() -> None:
    """A sibling was accepted, so the text goes on beside the draft."""
    learned = OnlineState()
    before = [learned.draft_acceptance.rate(margin) for margin in (0.3, 1.0, 3.0)]
    trunk = [Guess(token, 0.5, "drafted") for token in (1, 2, 3)]
    RoundGuesses(9, trunk, (), margins=(0.3, 1.0, 3.0)).judge(learned, (1, 7, 3))
    after = [learned.draft_acceptance.rate(margin) for margin in (0.3, 1.0, 3.0)]
    expected = OnlineState().draft_acceptance
    expected.observe(0.3, True)
    expected.observe(1.0, False)
    assert after == [expected.rate(margin) for margin in (0.3, 1.0, 3.0)] != before


def test_a_second_choice_is_judged_where_the_first_was_wrong() -> None:
    learned = OnlineState()
    rates = learned.runner_up_acceptance
    trunk = [
        Guess(token, 0.5, "drafted", (Guess(token + 10, 0.3, "runner-up"),)) for token in (1, 2)
    ]
    before = rates.rate(0)
    RoundGuesses(9, trunk, (), margins=(0.2, 0.5)).judge(learned, (1, 12))
    assert rates.rate(0) > before
    RoundGuesses(9, trunk, (), margins=(0.2, 0.5)).judge(learned, (1, 13))
    RoundGuesses(9, trunk, (), margins=(0.2, 0.5)).judge(learned, (1, 13))
    assert rates.rate(0) < before


def test_a_copy_that_few_occurrences_lead_to_is_right_as_seldom() -> None:
    """A quarter of the occurrences leads to it, and a quarter of such copies is right."""
    rates = copy_acceptance()
    copy = Copy(Continuation((5,), 0.25, 3, (0.25,), ("copied",)))
    for i in range(400):
        copy.judge(rates, (5 if i % 4 == 0 else 6,))
    assert rates["copied"].rate(3) == pytest.approx(1.0, abs=0.15)
    (guess,) = copy.guesses(rates)
    assert guess.chance == pytest.approx(0.25, abs=0.04)


def test_occurrences_that_went_another_way_do_not_doubt_the_rest_of_a_copy() -> None:
    """Half of the occurrences go on with the second token, and all of those with the third."""
    rates = copy_acceptance()
    copy = Copy(Continuation((5, 6, 7), 2.0, 8, (1.0, 0.5, 0.5), ("copied",) * 3))
    table = rates["copied"]
    expected = [table.rate(8), table.rate(9) * 0.5, table.rate(10)]
    assert [guess.chance for guess in copy.guesses(rates)] == pytest.approx(expected)


def test_what_followed_elsewhere_stands_beside_a_copy_and_is_judged_where_it_was_wrong() -> None:
    learned = OnlineState()
    seconds = learned.second_copy_acceptance
    shares, sources = (1.0, 0.5), ("copied",) * 2
    copy = Copy(Continuation((5, 6), 1.5, 8, shares, sources, (None, 7)))
    first, second = copy.guesses(learned.copy_acceptance, seconds.rate(0))
    assert first.alternatives == ()
    (other,) = second.alternatives
    assert (other.token, other.source) == (7, "copied")
    assert other.chance == pytest.approx((1 - second.chance) * seconds.rate(0))
    assert not any(each.alternatives for each in copy.guesses(learned.copy_acceptance))
    before = seconds.rate(0)
    found = RoundGuesses(9, (first, second), [copy])
    found.judge(learned, (4, 7))
    assert seconds.rate(0) == before, "nothing followed elsewhere in the place of the first"
    found.judge(learned, (5, 6))
    assert seconds.rate(0) == before, "it was right"
    found.judge(learned, (5, 7))
    assert seconds.rate(0) > before
    for _ in range(30):
        found.judge(learned, (5, 4))
    assert seconds.rate(0) < before


def test_copies_of_earlier_texts_are_judged_by_themselves() -> None:
    rates = copy_acceptance()
    before = rates["copied"].rate(4), rates["remembered"].rate(4)
    assert before[1] < before[0], "other texts go on less often in the same way"
    copy = Copy(Continuation((5,), 1.0, 4, (1.0,), ("remembered",)))
    (guess,) = copy.guesses(rates)
    assert guess.chance == before[1]
    copy.judge(rates, (6,))
    assert rates["copied"].rate(4) == before[0]
    assert rates["remembered"].rate(4) < before[1]


@pytest.mark.parametrize(
    ("emitted", "tokens"), [((1, 2, 3, 4), 3), ((1, 2, 7), 3), ((1, 7), 2), ((7,), 1)]
)
def test_a_draft_gives_its_right_tokens_and_one_more(
    emitted: tuple[int, ...], tokens: int
) -> None:
    """A copy after it adds nothing to that."""
    learned = OnlineState()
    trunk = [Guess(1, 0.5, "drafted"), Guess(2, 0.5, "drafted"), Guess(3, 0.5, "copied")]
    guesses = RoundGuesses(9, trunk, (), margins=(0.5, 0.5))
    draft = DraftTree.chain((1, 2, 3), forwards=1)
    guesses.judge_draft(learned, outcome(draft, emitted, draft_seconds=4.0))
    assert learned.drafted.tokens.mean == tokens
    assert learned.draft_step.mean == 2.0, "seconds for each of two tokens, of one forward"


@pytest.mark.parametrize("margins", [(), (0.5,)])
def test_without_a_draft_of_the_model_none_is_judged(margins: tuple[float, ...]) -> None:
    """A copy; or a draft of which no row was verified."""
    learned = OnlineState()
    draft = DraftTree() if margins else DraftTree.chain((1,))
    guesses = RoundGuesses(9, [Guess(1, 0.5, "copied")], (), margins)
    guesses.judge_draft(learned, outcome(draft, (1, 2)))
    assert not learned.drafted.known
    assert learned.draft_step.weight == 0


def outcome(
    draft: DraftTree, emitted: tuple[int, ...], draft_seconds: float = 0.0
) -> RoundOutcome:
    return RoundOutcome(draft, (), emitted, torch.zeros(1, 8), None, draft_seconds, 1.0)
