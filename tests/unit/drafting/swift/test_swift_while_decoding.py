"""SWIFT's mask search while decoding, and pauses of drafting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.drafter_contract import small_target
from support.swift import (
    EAGER,
    GREEDY,
    on_tables,
    rounds_on,
    state_of,
    sure_of,
)
from support.table_engine import TableEngine
from support.tiny import tiny_llama, tiny_prompts, tiny_target

from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.drafting import swift
from skipopt.drafting.base import RoundOutcome
from skipopt.drafting.swift import SwiftDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.online.config import OnlineConfig
from skipopt.online.swift_search import SwiftMaskSearch, alternating
from skipopt.rounds import Round, Statistics
from skipopt.runtime.engine import Engine
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import Case
from skipopt.verification.match import Match

CONFIG = OnlineConfig()


def searching(target: Target, seed: int = 0, **options: Any) -> SwiftDrafter:
    """A drafter that searches the same way whatever the clock reads."""
    settings = {"score_tokens": 6, "search_overhead": 1.0, "tau": 0.3, "max_depth": 4, **options}
    return SwiftDrafter(target, seed=seed, cost_aware=False, auto_disable=False, **settings)


def decoded(target: Target, drafter: SwiftDrafter, count: int = 40) -> list[Round]:
    prompt = tiny_prompts(1)[0]
    engine = Engine(target, len(prompt) + count + drafter.max_extra_rows)
    limits = Limits(count, target.context_limit)
    return list(decode(engine, prompt, drafter, GREEDY, limits, Match()))


def search_of(drafter: SwiftDrafter) -> SwiftMaskSearch:
    assert drafter.online_state.mask_search is not None
    return drafter.online_state.mask_search


def test_search_replaces_the_mask_while_the_text_stays_the_same(target: Target) -> None:
    drafter = searching(target, skip_ratio=0.3, score_tokens=20)
    rounds = decoded(target, drafter, 100)
    assert search_of(drafter).trials > 5
    assert drafter.mask != alternating(6)
    text = [token for each in rounds for token in each.emitted]
    assert text == contract.plain(target, tuple(tiny_prompts(1)[0]), 100)


def test_drafts_are_made_under_the_new_mask(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new mask skips nothing: from then on every draft is accepted."""
    drafter = searching(target, tau=0.0)
    monkeypatch.setattr(search_of(drafter), "propose", lambda: SkipMask.empty(6))
    paths = [len(each.path) for each in decoded(target, drafter, 60)]
    assert min(paths[:4]) < 4
    assert set(paths[8:-1]) == {4}


def test_search_repeats_with_its_seed(target: Target) -> None:
    first, again, other = (searching(target, seed) for seed in (1, 1, 2))
    for drafter in (first, again, other):
        decoded(target, drafter)
    assert search_of(first)._values == search_of(again)._values
    assert first.mask == again.mask
    assert search_of(first)._values.keys() != search_of(other)._values.keys()


def test_search_waits_for_as_many_tokens_as_it_scores(target: Target) -> None:
    drafter = searching(target, score_tokens=50)
    decoded(target, drafter, 50)
    assert search_of(drafter).trials == 0
    drafter = searching(target, score_tokens=6)
    decoded(target, drafter, 30)
    assert search_of(drafter).trials > 0


def test_search_takes_its_share_of_the_time_only(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round advances the clock by 1 s, a candidate by 3 s."""
    clock = SimpleNamespace(now=0.0)

    def slow(*args: Any) -> SimpleNamespace:
        clock.now += 1.5
        return SimpleNamespace(matchness=0.5)

    monkeypatch.setattr(swift, "score_recent_tokens", slow)
    monkeypatch.setattr(swift, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    drafter = searching(target, search_overhead=0.1)
    state = state_of(SimpleNamespace(draft_mode=lambda *_: None), [1] * 10)
    monkeypatch.setattr(drafter, "_draft", lambda *args: DraftTree())
    drafter.propose(state, 9)
    state.tokens.extend([1] * 10)
    for _ in range(300):
        before = clock.now
        draft = drafter.propose(state, 9)
        spent = clock.now - before
        drafter.observe(RoundOutcome(draft, (), (1,), torch.zeros(1, 1), None, spent + 0.5, 0.5))
    assert search_of(drafter).trials == pytest.approx(300 / 27, abs=1)
    assert drafter.online_state.decode_seconds == pytest.approx(300)


def test_time_of_the_search_does_not_count_against_drafts(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = searching(target)
    drafter._search_seconds = 5.0
    draft = DraftTree.chain([1, 2])
    drafter.observe(RoundOutcome(draft, (0,), (1, 3), torch.zeros(3, 1), None, 5.25, 0.75))
    learned = drafter.online_state
    assert learned.drafted.per_second == pytest.approx(2.0)
    assert learned.search_seconds == 5.0


def test_the_cache_has_room_for_the_rows_of_the_search(target: Target) -> None:
    drafter = searching(target, max_depth=1, siblings=(1, 1, 1, 1), score_tokens=30)
    decoded(target, drafter, 40)
    assert search_of(drafter).trials > 0


def test_a_finished_search_proposes_no_more(target: Target) -> None:
    drafter = searching(target)
    search_of(drafter).tell(alternating(6), 0.99, 0.5)
    decoded(target, drafter, 30)
    assert search_of(drafter).trials == 1


def test_the_search_continues_with_the_next_text(target: Target) -> None:
    first = searching(target, skip_ratio=0.6, score_tokens=20)
    decoded(target, first)
    trials = search_of(first).trials
    assert not search_of(first).done
    second = searching(target, skip_ratio=0.6, score_tokens=20, online_state=first.online_state)
    assert second.mask == first.mask
    decoded(target, second)
    assert search_of(second).trials > trials
    assert second.online_state is first.online_state


def test_a_model_of_two_layers_decodes_with_the_search_off() -> None:
    target = tiny_target(tiny_llama(layers=2))
    mask = SkipMask.of(2, [1])
    assert SwiftDrafter(target, mask, tune_mask=False).mask == mask
    with pytest.raises(UsageError, match="needs three, not 2"):
        SwiftDrafter(target, mask)


def test_drafts_that_lose_are_paused() -> None:
    engine = sure_of(*[0.9] * 5)
    drafter = on_tables(engine, auto_disable=True, max_depth=3)
    on_trial = "d" * CONFIG.early_rounds
    expected = "d." + on_trial + "." * CONFIG.first_pause + on_trial + "." * 16
    assert losing(drafter, engine, 40) == expected


def test_drafts_that_lose_continue_where_pausing_is_disabled() -> None:
    engine = sure_of(*[0.9] * 5)
    assert losing(on_tables(engine, max_depth=3), engine, 40) == "d" * 40


def losing(drafter: SwiftDrafter, engine: TableEngine, rounds: int) -> str:
    """Rounds that take 3 s per token with a draft and 1 s without."""
    shown = ""
    for _ in range(rounds):
        draft = drafter.propose(state_of(engine, [0]), 9)
        seconds = 3.0 if draft.tokens else 1.0
        shown += "d" if draft.tokens else "."
        drafter.observe(RoundOutcome(draft, (), (1,), torch.zeros(1, 1), None, 0.0, seconds))
    return shown


def test_a_failed_draft_rewinds_the_engine() -> None:
    target = small_target()
    contract.check_failure(Case(target, EAGER))


def test_drafts_and_siblings_are_accepted(tables: TableEngine) -> None:
    rounds = rounds_on(tables, on_tables(tables, tau=0.0, max_depth=3))
    assert Statistics.of(rounds).accepted > 0
    words = {each.sources[i] for each in rounds for i in each.path}
    assert words == {"drafted", "sibling"}
