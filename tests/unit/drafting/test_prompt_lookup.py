"""Prompt lookup copies what followed the last match."""

from __future__ import annotations

from support.tiny import tiny_prompts

from skipopt.drafting.base import DraftState
from skipopt.drafting.prompt_lookup import PromptLookupDrafter


def proposal(tokens: list[int], limit: int = 10, **settings: int) -> tuple[int, ...]:
    drafter = PromptLookupDrafter(**settings)
    state = DraftState(tokens, None, None)  # type: ignore[arg-type]
    return drafter.propose(state, limit).tokens


def test_prompt_lookup_copies_what_followed() -> None:
    assert proposal([1, 2, 3, 4, 5, 1, 2]) == (3, 4, 5, 1, 2)
    assert proposal([1, 2, 3, 4, 5, 1, 2], gamma=2) == (3, 4)
    assert proposal([1, 2, 3, 4, 5, 1, 2], limit=1) == (3,)
    assert proposal([1, 2, 3, 4, 5, 1, 2], limit=0) == ()
    assert proposal([1, 2, 3]) == ()
    assert proposal([1]) == ()


def test_prompt_lookup_prefers_long_matches_then_late_ones() -> None:
    assert proposal([1, 2, 9, 5, 2, 8, 1, 2], gamma=1) == (9,)
    assert proposal([2, 9, 5, 2, 8, 1, 2], gamma=1) == (8,)


def test_prompt_lookup_index_grown_step_by_step_is_the_same() -> None:
    tokens = [t % 5 for prompt in tiny_prompts(8) for t in prompt]
    drafter = PromptLookupDrafter()
    for end in range(1, len(tokens)):
        state = DraftState(tokens[:end], None, None)  # type: ignore[arg-type]
        assert drafter.propose(state, 10).tokens == proposal(tokens[:end])
