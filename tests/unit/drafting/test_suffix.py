"""Suffix decoding drafts what most often followed the longest match."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from skipopt.draft_memory.memory import DraftMemory
from skipopt.draft_memory.suffix_index import MAX_MATCH, MAX_MATCHES, SuffixIndex
from skipopt.drafting.base import DraftState
from skipopt.drafting.suffix import Continuation, SuffixDrafter
from skipopt.errors import UsageError


def proposal(tokens: list[int], limit: int = 10, **settings: float) -> tuple[int, ...]:
    drafter = SuffixDrafter(**{"factor": 1.0, **settings})  # type: ignore[arg-type]
    state = DraftState(tokens, None, None)  # type: ignore[arg-type]
    return drafter.propose(state, limit).tokens


def found(tokens: list[int]) -> list[tuple[int, int]]:
    index = SuffixIndex()
    index.index(tokens)
    return index.matches(tokens)


def occurrences(tokens: list[int]) -> dict[int, int]:
    """All ends of matches of the last tokens and their lengths, by comparing everything."""
    lengths = {}
    for end in range(1, len(tokens)):
        length = 0
        while length < min(end, MAX_MATCH) and tokens[end - 1 - length] == tokens[-1 - length]:
            length += 1
        if length:
            lengths[end] = length
    return lengths


def test_a_draft_is_as_long_as_the_match() -> None:
    assert proposal([1, 2, 3, 4, 5, 1, 2]) == (3, 4)
    assert proposal([1, 2, 3, 4, 5, 1, 2], factor=2.0) == (3, 4, 5, 1)
    assert proposal([1, 2, 3, 4, 5, 1, 2], factor=0.1) == (3,)
    assert proposal([1, 2, 3, 4, 5, 1, 2], factor=2.0, gamma=3) == (3, 4, 5)
    assert proposal([1, 2, 3, 4, 5, 1, 2], limit=1) == (3,)
    assert proposal([1, 2, 3, 4, 5, 1, 2], limit=0) == ()
    assert proposal([1, 2, 3]) == ()
    assert proposal([1]) == ()


def test_a_draft_has_two_tokens_for_each_that_matched_unless_told_otherwise() -> None:
    state = DraftState([1, 2, 3, 4, 5, 6, 1, 2], None, None)  # type: ignore[arg-type]
    assert SuffixDrafter().propose(state, 10).tokens == (3, 4, 5, 6)


def test_the_most_frequent_continuation_is_drafted_not_the_latest() -> None:
    often = [1, 2, 8, 5, 1, 2, 8, 6, 1, 2, 9, 7, 1, 2]
    assert proposal(often, gamma=1) == (8,)


def test_of_equally_frequent_continuations_the_latest_is_drafted() -> None:
    assert proposal([1, 2, 8, 5, 1, 2, 9, 7, 1, 2], gamma=1) == (9,)


def test_a_longer_match_is_worth_more_than_frequent_short_ones() -> None:
    tokens = [3, 1, 2, 9, 9, 4, 1, 2, 8, 5, 1, 2, 8, 3, 1, 2]
    assert proposal(tokens) == (9, 9, 4)


def test_occurrences_that_match_longer_vote_for_short_matches_too() -> None:
    # Three match: 8 and 9. Two match: 8, 9, 7 and 7. Both lengths give half of the votes.
    tokens = [10, 3, 1, 2, 8, 11, 3, 1, 2, 9, 12, 4, 1, 2, 7, 13, 5, 1, 2, 7, 14, 3, 1, 2]
    assert proposal(tokens, gamma=1) == (9,)


def test_only_occurrences_that_agree_vote_for_the_token_after() -> None:
    tokens = [10, 1, 2, 9, 6, 11, 1, 2, 8, 6, 12, 1, 2, 8, 5, 13, 1, 2]
    assert proposal(tokens) == (8, 5)


def test_rare_continuations_end_the_draft() -> None:
    ambiguous = [1, 2, 3, 5, 1, 2, 4, 6, 1, 2]
    assert proposal(ambiguous, min_prob=0.5)[0] == 4
    assert proposal(ambiguous, min_prob=0.6) == ()


@pytest.mark.parametrize("kinds", [2, 5, 50])
def test_matches_are_all_that_a_comparison_finds(kinds: int) -> None:
    generator = random.Random(kinds)
    for _ in range(100):
        tokens = [generator.randrange(kinds) for _ in range(generator.randrange(1, 60))]
        expected, matches = occurrences(tokens), found(tokens)
        assert all(expected[end] == length for end, length in matches)
        longest = max(expected.values(), default=0)
        assert max((length for _, length in matches), default=0) == longest
        assert all(a > b for (a, _), (b, _) in pairwise(matches))


def test_the_latest_matches_are_looked_at() -> None:
    matches = found([7] * 200)
    assert len(matches) == MAX_MATCHES
    assert matches[0] == (199, MAX_MATCH)


def test_an_index_grown_step_by_step_is_the_same() -> None:
    generator = random.Random(0)
    tokens = [generator.randrange(6) for _ in range(1500)]  # beyond the first slots
    index = SuffixIndex()
    for end in range(1, len(tokens) + 1):
        index.index(tokens[:end])
        if end % 50 == 0:
            assert index.matches(tokens[:end]) == found(tokens[:end])


# --- continuations, also of earlier texts


def remembering(*texts: list[int], **settings: float) -> tuple[SuffixDrafter, DraftMemory]:
    memory = DraftMemory()
    for text in texts:
        memory.add(text)
    return SuffixDrafter(memory=memory, **{"factor": 1.0, **settings}), memory  # type: ignore[arg-type]


def continuation(drafter: SuffixDrafter, tokens: list[int], limit: int = 10) -> Continuation:
    drafter.index(tokens)
    return drafter.continuation(tokens, limit)


def test_a_continuation_has_its_votes() -> None:
    tokens = [10, 1, 2, 9, 6, 11, 1, 2, 8, 6, 12, 1, 2, 8, 5, 13, 1, 2]
    found = continuation(SuffixDrafter(factor=1.0), tokens)
    assert (found.tokens, found.matched) == ((8, 5), 2)
    assert found.shares == pytest.approx((2 / 3, 1 / 3))
    assert found.score == pytest.approx(1.0)
    assert found.sources == ("copied", "copied")
    assert found.others == (9, 6), "the latest of what followed elsewhere"


def test_a_context_may_have_tokens_after_the_indexed_text() -> None:
    drafter = SuffixDrafter(factor=1.0)
    drafter.index([1, 2, 3, 4, 5])
    assert drafter.continuation([1, 2, 3, 4, 5, 1, 2], 10).tokens == (3, 4)
    assert drafter.continuation([1, 2, 3, 4, 5, 2, 3], 10).tokens == (4, 5)


def test_what_followed_in_an_earlier_text_is_drafted() -> None:
    drafter, _ = remembering([1, 2, 3, 4, 5, 6])
    found = continuation(drafter, [9, 8, 2, 3])
    assert found == Continuation(
        (4, 5), 2.0, 2, (1.0, 1.0), ("remembered", "remembered"), (None, None)
    )
    assert continuation(remembering([7, 2, 4])[0], [9, 8, 2]).tokens == ()  # one token is too few


def test_text_and_memory_vote_together_and_the_text_wins_ties() -> None:
    text = [1, 2, 7, 5, 1, 2]
    assert continuation(remembering([1, 2, 8])[0], text, 1).sources == ("copied",)
    found = continuation(remembering([1, 2, 8], [3, 1, 2, 8])[0], text, 1)
    assert (found.tokens, found.sources) == ((8,), ("remembered",))
    assert found.shares == pytest.approx((2 / 3,))
    mixed = continuation(remembering([3, 1, 2, 7, 9], [4, 1, 2, 7, 9])[0], [1, 2, 7, 5, 1, 2])
    assert (mixed.tokens, mixed.sources) == ((7, 9), ("copied", "remembered"))


def test_an_earlier_text_that_is_copied_counts_as_used() -> None:
    first, second = [1, 2, 3, 4, 5], [6, 7, 8, 9]
    drafter, memory = remembering(first, second)
    continuation(drafter, [0, 1, 2])
    assert [list(text) for text in memory.texts()] == [second, first]
    drafter, memory = remembering(first, second)
    continuation(drafter, [1, 2, 3, 0, 1, 2])  # what the text itself has is not copied from others
    assert [list(text) for text in memory.texts()] == [first, second]


@pytest.mark.parametrize(
    "settings", [{"gamma": 0}, {"factor": 0.0}, {"factor": float("nan")}, {"min_prob": 1.5}]
)
def test_values_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        SuffixDrafter(**settings)  # type: ignore[arg-type]
