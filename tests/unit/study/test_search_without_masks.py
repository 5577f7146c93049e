"""A search of a model whose masks cannot be scored tries what needs no mask."""

from __future__ import annotations

import pytest
from support.architectures import build

from skipopt.errors import NotScoredError, SearchError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.load import make_target
from skipopt.study.config import SearchConfig
from skipopt.study.study import search
from skipopt.testing.architectures import cheap_drafts, quantized_is_faster, words
from skipopt.testing.costs import FixedCosts

PROMPTS = [" ".join(f"w{(i * i + k) % 64}" for i in range(6 + k)) for k in range(24)]


def made(notes: list[str], *space: str) -> tuple[Target, Profile]:
    target = make_target(build("bloom"), words(), runtime="eager")
    config = SearchConfig(
        trials=2,
        calibration_tokens=8,
        max_gamma=2,
        validation_repeats=1,
        min_validation_prompts=2,
        methods=("layer-skip",),
        search_space=space,
    )
    costs = FixedCosts(cheap_drafts)
    with quantized_is_faster():
        profile = search(target, PROMPTS, config=config, cost_source=costs, on_note=notes.append)
    return target, profile


def test_drafts_without_a_mask_are_searched_instead() -> None:
    notes: list[str] = []
    target, profile = made(notes, "skip", "int8")
    assert any(note.startswith("masks are not tried: masks of Bloom") for note in notes)
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
