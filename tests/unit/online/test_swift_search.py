"""SWIFT's search for a better mask while decoding."""

from __future__ import annotations

import pytest

from skipopt.errors import UsageError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.online import swift_search
from skipopt.online.swift_search import (
    ENOUGH_MATCHNESS,
    MAX_TRIALS,
    PATIENCE,
    SUGGEST_EVERY,
    SwiftMaskSearch,
    alternating,
)


def test_first_mask_is_every_second_layer_but_the_last() -> None:
    assert str(alternating(8)) == "attn 1,3,5 mlp 1,3,5"
    assert str(alternating(7)) == "attn 1,3,5 mlp 1,3,5"
    assert str(alternating(3)) == "attn 1 mlp 1"


def candidates(search: SwiftMaskSearch, count: int) -> list[SkipMask]:
    found = []
    for _ in range(count):
        found.append(search.propose())
        search.tell(found[-1], 0.1, 0.2)
    return found


def test_candidates_skip_the_ratio_and_neither_first_nor_last_layer() -> None:
    for mask in candidates(SwiftMaskSearch(12, ratio=0.3), SUGGEST_EVERY + 3):
        assert len(mask.skipped) == int(20 * 0.3)
        assert not {0, 11} & {position // 2 for position in mask.skipped}


def test_candidates_skip_as_many_as_a_given_mask() -> None:
    given = SkipMask.of(6, [0, 1, 2], [4, 5])
    search = SwiftMaskSearch(6, given)
    assert search.mask == given
    tried = candidates(search, 40)
    assert {len(mask.skipped) for mask in tried} == {5}
    ends = {position for mask in tried for position in mask.skipped} & {0, 1, 10, 11}
    assert ends == {0, 11}, "only what the given mask skips there may be skipped"


def test_candidates_repeat_with_their_seed_only() -> None:
    first, again, other = (
        candidates(SwiftMaskSearch(12, seed=s), 2 * SUGGEST_EVERY) for s in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_every_25th_candidate_is_suggested_by_a_gaussian_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    marked = SkipMask.of(12, [5], [5])

    def suggested(space: MaskSpace, values: dict[SkipMask, float], *rest: object) -> SkipMask:
        asked.append(len(values))
        return marked

    monkeypatch.setattr("skipopt.gaussian_process.suggest_mask", suggested)
    tried = candidates(SwiftMaskSearch(12), 3 * SUGGEST_EVERY)
    assert [i + 1 for i, mask in enumerate(tried) if mask == marked] == [25, 50, 75]
    assert asked[0] == 24


def test_better_mask_replaces_and_an_equal_or_worse_one_does_not() -> None:
    search = SwiftMaskSearch(12)
    start, first, second = search.mask, search.propose(), search.propose()
    search.tell(first, 0.5, 0.5)
    assert (search.mask, search.matchness) == (start, 0.5)
    search.tell(second, 0.6, 0.58)
    assert (search.mask, search.matchness) == (second, 0.6)


def test_first_candidate_must_beat_the_first_mask() -> None:
    """In SWIFT the best score starts at 0, so a candidate with 0.02 replaces a mask with 0.9."""
    search = SwiftMaskSearch(12)
    start = search.mask
    search.tell(search.propose(), 0.02, 0.9)
    assert search.mask == start


def test_a_score_on_other_tokens_does_not_count() -> None:
    """SWIFT compares with a maximum over earlier texts; here both masks are scored on the same
    text.
    """
    search = SwiftMaskSearch(12)
    lucky, better = search.propose(), search.propose()
    search.tell(lucky, 0.92, 0.5)
    search.tell(better, 0.7, 0.6)
    assert search.mask == better


def test_search_ends_when_good_enough() -> None:
    search = SwiftMaskSearch(12)
    search.tell(search.propose(), ENOUGH_MATCHNESS, 0.5)
    assert not search.done
    search.tell(search.propose(), ENOUGH_MATCHNESS + 0.01, ENOUGH_MATCHNESS)
    assert search.done


def test_search_ends_when_the_current_mask_is_good_enough() -> None:
    search = SwiftMaskSearch(12)
    search.tell(search.propose(), 0.5, ENOUGH_MATCHNESS + 0.01)
    assert search.done


def test_search_ends_after_many_misses_in_a_row() -> None:
    search = SwiftMaskSearch(12, ratio=0.1)
    mask = search.propose()
    for _ in range(PATIENCE):
        search.tell(mask, 0.1, 0.2)
    assert not search.done
    search.tell(mask, 0.3, 0.2)
    for _ in range(PATIENCE + 1):
        assert not search.done
        search.tell(mask, 0.1, 0.2)
    assert search.done


def test_search_ends_after_its_trials() -> None:
    search = SwiftMaskSearch(12)
    mask = search.propose()
    for i in range(MAX_TRIALS):
        assert not search.done
        search.tell(mask, 0.3 if i % 2 else 0.1, 0.2)
    assert search.done


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(UsageError, match=f"not {ratio}"):
        SwiftMaskSearch(12, ratio=ratio)


def test_model_without_a_layer_between_first_and_last() -> None:
    with pytest.raises(UsageError, match="not 2"):
        SwiftMaskSearch(2)


def test_the_settings_are_those_of_swift() -> None:
    """SWIFT's γ of 50 is the drafter's maximum."""
    assert (swift_search.SKIP_RATIO, SUGGEST_EVERY, ENOUGH_MATCHNESS, PATIENCE, MAX_TRIALS) == (
        0.45,
        25,
        0.93,
        300,
        1000,
    )
