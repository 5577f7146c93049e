"""A search of a model whose masks cannot be scored tries what needs no mask."""

from __future__ import annotations

import pytest

from skipopt.errors import NotScoredError, SearchError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.load import make_target
from skipopt.testing.architectures import quantized_is_faster, short_search, words
from tools.tiny_models import tiny_model

PROMPTS = [" ".join(f"w{(i * i + k) % 64}" for i in range(6 + k)) for k in range(24)]


def made(notes: list[str], *space: str) -> tuple[Target, Profile]:
    target = make_target(tiny_model("mpt"), words(), runtime="eager")
    with quantized_is_faster():
        profile = short_search(target, PROMPTS, space, notes.append)
    return target, profile


def test_drafts_without_a_mask_are_searched_instead() -> None:
    notes: list[str] = []
    target, profile = made(notes, "skip", "int8")
    assert any(note.startswith("masks are not tried: masks of Mpt") for note in notes)
    assert not profile.mask.attention
    assert not profile.mask.mlp
    assert profile.predicted is not None
    assert profile.predicted.matchness > 0.5
    profile.check_model(target)


def test_where_there_is_nothing_else_the_search_says_why() -> None:
    with pytest.raises(NotScoredError, match="cannot be scored") as refusal:
        made([], "skip")
    assert refusal.value.hint


def test_a_space_of_which_nothing_is_available_is_named() -> None:
    with pytest.raises(SearchError, match="of the search space") as refusal:
        made([], "window=8")
    assert "--search-space" in (refusal.value.hint or "")
