"""The cascade: how it chooses between its own drafts and copies, and what it measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.cascade import cascade
from support.table_engine import TableEngine

from skipopt.averages import Throughput
from skipopt.cost_model.costs import Costs
from skipopt.draft_memory.memory import DraftMemory
from skipopt.drafting.base import DraftState, RoundOutcome
from skipopt.drafting.cascade import CascadeDrafter
from skipopt.drafting.context_switching import transfer_state
from skipopt.drafting.guess_tree import Guess
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.drafting.round_guesses import RoundGuesses
from skipopt.drafting.row_budget import OUTDATED
from skipopt.drafting.tree import DraftTree
from skipopt.online.acceptance import MAX_MATCH, NgramAcceptance
from skipopt.online.config import OnlineConfig
from skipopt.online.state import OnlineState
from skipopt.sampling import SamplingOptions, TokenSampler

GREEDY = SamplingOptions()


CONFIG = OnlineConfig()


REPEATED = [5, 6, 7, 1, 2, 3, 4, 5, 6, 7]  # 1, 2, 3, 4, … follow after a match of three


BEFORE = [5, 6, 7, 1, 2, 3, 4, 9]  # where a draft of 5 and 6 leads on to 7, 1, 2, …


NEW = [3, 1, 4]


def state_of(
    engine: Any, tokens: Sequence[int], options: SamplingOptions = GREEDY, coupled: bool = True
) -> DraftState:
    return DraftState(list(tokens), engine, TokenSampler(options, torch.device("cpu"), coupled))


def observe_round(
    drafter: CascadeDrafter, draft: DraftTree, emitted: Sequence[int], drafting: float = 0.5
) -> None:
    """Observe a round whose draft took `seconds`; verification takes 1 s and 0.05 s per token."""
    pairs = enumerate(zip(draft.tokens, emitted, strict=False))
    stood = next((i for i, (a, b) in pairs if a != b), min(len(draft.tokens), len(emitted)))
    seconds, rows = 1 + 0.05 * len(draft.tokens), torch.zeros(1 + len(draft.tokens), 10)
    path = tuple(range(stood))
    drafter.observe(RoundOutcome(draft, path, tuple(emitted), rows, None, drafting, seconds))


def set_costs(
    drafter: CascadeDrafter,
    plain: float = 1.0,
    row: float = 0.05,
    own: tuple[int, float] = (2, 1.8),
) -> None:
    """Set costs and gains as if many rounds had been decoded."""
    learned = drafter.online_state
    for _ in range(40):
        learned.observe(1, 1, 0.0, plain, copied=False)
        for rows in (2, 4, 16):
            learned.verify.observe(rows, plain + row * rows)
            learned.verify.observe_tree(rows, 0.9 * (plain + row * rows))  # trees cost no more
        learned.observe(own[0], 4, own[1] - plain - 4 * row, plain + 4 * row, copied=False)


def test_own_drafts_are_retried_after_many_other_rounds(tables: TableEngine) -> None:
    drafter = cascade(tables, auto_disable=False, gamma=9)
    set_costs(drafter, own=(1, 3.0))
    chosen = []
    for _ in range(2 * OUTDATED):
        draft = drafter.propose(state_of(tables, REPEATED), 9)
        chosen.append(draft.sources[0])
        observe_round(drafter, draft, [1, 2, 3, 4, 5], drafting=9.0 * draft.forwards)
    assert [i for i, word in enumerate(chosen) if word == "drafted"] == [OUTDATED]


def test_a_copy_after_a_long_match_replaces_a_draft_of_unknown_gain(tables: TableEngine) -> None:
    """No draft of three tokens can gain as much, so none is made to find that out."""
    repeated = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 2
    assert cascade(tables).propose(state_of(tables, repeated), 16).sources == ("copied",) * 16
    assert "drafted" in cascade(tables).propose(state_of(tables, REPEATED[:8]), 16).sources


def test_drafted_tokens_that_are_seldom_right_are_not_verified() -> None:
    """The second token is unsure, and such tokens have been wrong; so is the copy behind it."""
    table = torch.zeros(10, 10)
    table[9, 5] = 50.0
    table[5, 6] = 0.3
    engine = TableEngine(table, table)
    drafter = cascade(engine, gamma=2, max_copy=3)
    set_costs(drafter, row=0.5)
    assert drafter.propose(state_of(engine, BEFORE), 9).tokens[:2] == (5, 6)
    for _ in range(50):
        drafter.online_state.draft_acceptance.observe(0.3, False)
        for _ in range(3):
            drafter.online_state.draft_acceptance.observe(50.0, True)
    draft = drafter.propose(state_of(engine, BEFORE), 9)
    assert draft.tokens == (5,)
    assert draft.forwards == 2


def test_a_draft_that_is_never_right_is_no_plain_step(tables: TableEngine) -> None:
    """Else its time would make plain decoding look slow, and drafts would never be paused."""
    drafter = cascade(tables, auto_disable=False)
    set_costs(drafter)
    for _ in range(400):
        drafter.online_state.draft_acceptance.observe(50.0, False)
    plain = drafter.online_state.gate._plain.mean
    draft = drafter.propose(state_of(tables, NEW), 9)
    assert (len(draft.tokens), draft.forwards) == (1, 1)
    observe_round(drafter, draft, [7], drafting=9.0)
    assert drafter.online_state.gate._plain.mean == plain


def test_first_round_drafts_and_second_is_plain_to_measure_both(
    tables: TableEngine,
) -> None:
    drafter = cascade(tables)
    first = drafter.propose(state_of(tables, NEW), 9)
    assert first.sources == ("drafted",) * 3
    observe_round(drafter, first, [1])
    second = drafter.propose(state_of(tables, NEW), 9)
    assert second.tokens == ()
    observe_round(drafter, second, [1])
    assert drafter.propose(state_of(tables, NEW), 9).tokens == first.tokens


def test_a_copy_likely_to_be_accepted_is_verified(tables: TableEngine) -> None:
    drafter = cascade(tables, max_copy=4)
    set_costs(drafter)
    for _ in range(30):
        drafter.online_state.copy_acceptance["copied"].observe(3, True)
    draft = drafter.propose(state_of(tables, REPEATED), 9)
    assert draft.tokens == (1, 2, 3, 4)
    assert draft.sources == ("copied",) * 4
    assert (draft.kind, draft.forwards) == ("point", 0)


def test_a_copy_rarely_accepted_is_drafted_by_the_model(tables: TableEngine) -> None:
    drafter = cascade(tables)
    set_costs(drafter)
    for length in range(MAX_MATCH + 1):
        for _ in range(100):
            drafter.online_state.copy_acceptance["copied"].observe(length, False)
    draft = drafter.propose(state_of(tables, REPEATED), 9)
    assert draft.sources == ("drafted",) * 3


def test_no_copy_without_an_earlier_match(tables: TableEngine) -> None:
    drafter = cascade(tables)
    set_costs(drafter)
    assert drafter.propose(state_of(tables, NEW), 9).sources == ("drafted",) * 3


def test_better_own_drafts_shorten_copies(tables: TableEngine) -> None:
    sources = []
    for tokens in (1, 6):
        drafter = cascade(tables)
        set_costs(drafter, own=(tokens, 1.8))
        sources.append(drafter.propose(state_of(tables, REPEATED), 9).sources[0])
    assert sources == ["copied", "drafted"]


class FixedRates(NgramAcceptance):
    """Acceptance rates by the length of the match; other lengths have the prior."""

    def __init__(self, rates: dict[int, float]) -> None:
        super().__init__()
        self.rates = rates
        self.seen: list[tuple[int, bool]] = []

    def observe(self, kind: int, accepted: bool, weight: float = 1.0) -> None:
        self.seen.append((kind, accepted))

    def rate(self, length: int) -> float:
        return self.rates.get(length, super().rate(length))


@pytest.mark.parametrize(("row", "length"), [(0.0, 7), (0.2, 3), (0.3, 2)])
def test_more_expensive_rows_shorten_copies(tables: TableEngine, row: float, length: int) -> None:
    drafter = cascade(tables, max_copy=7)
    set_costs(drafter, row=row, own=(1, 3.0))
    drafter.online_state.copy_acceptance["copied"] = FixedRates({3: 0.9, 4: 0.6, 5: 0.5, 6: 0.3})
    assert len(drafter.propose(state_of(tables, REPEATED), 9).tokens) == length


def test_a_copy_continues_after_the_models_own_draft() -> None:
    """After 9 the model drafts 5 and 6, which occurred before 7, 1, 2, …"""
    table = torch.zeros(10, 10)
    for token, following in ((9, 5), (5, 6), (6, 0)):
        table[token, following] = 50.0
    engine = TableEngine(table, table)
    drafter = cascade(engine, gamma=2, max_copy=3)
    set_costs(drafter, row=0.0)
    draft = drafter.propose(state_of(engine, BEFORE), 9)
    assert draft.tokens == (5, 6, 7, 1, 2)
    assert draft.sources == ("drafted",) * 2 + ("copied",) * 3
    assert draft.is_chain
    assert draft.forwards == 2


def test_copied_tokens_behind_drawn_ones_are_certain() -> None:
    table = torch.zeros(10, 10)
    for token, following in ((9, 5), (5, 6)):
        table[token, following] = 50.0
    engine = TableEngine(table, table)
    free_rows = Costs(0.3, 0, 0, 0, verify=(1.0,) * 5)
    drafter = cascade(engine, gamma=2, max_copy=2, costs=free_rows)
    options = SamplingOptions(temperature=1.0)
    draft = drafter.propose(state_of(engine, BEFORE, options, coupled=False), 9)
    assert draft.tokens == (5, 6, 7, 1)
    assert draft.kind == "independent"
    assert set(draft.draft_probs) == {-1, 0, 1, 2}
    assert torch.equal(draft.draft_probs[1], torch.eye(10)[7])
    assert torch.equal(draft.draft_probs[2], torch.eye(10)[1])


@pytest.mark.parametrize("limit", range(6))
def test_drafts_keep_to_the_limit(tables: TableEngine, limit: int) -> None:
    for tokens in (REPEATED, NEW):
        drafter = cascade(tables)
        assert len(drafter.propose(state_of(tables, tokens), limit).tokens) <= limit
        set_costs(drafter)
        assert len(drafter.propose(state_of(tables, tokens), limit).tokens) <= limit


def test_choosing_a_source_draws_no_noise(tables: TableEngine) -> None:
    """A choice based on noise that verification uses later would bias sampling."""
    options = SamplingOptions(temperature=1.0, seed=9)
    drafter = cascade(tables)
    state = state_of(tables, REPEATED, options, coupled=False)
    drafter.propose(state, 9)  # from here on costs are assumed
    set_costs(drafter, own=(1, 3.0))
    before = state.sampler.generator.get_state()
    assert drafter.propose(state, 9).sources[0] == "copied"
    assert torch.equal(state.sampler.generator.get_state(), before)
    drafter = cascade(tables)
    set_costs(drafter, own=(1, 3.0))
    for seed in range(5):
        other = state_of(tables, REPEATED, SamplingOptions(1.0, seed=seed), coupled=True)
        assert drafter.propose(other, 9).sources[0] == "copied"
        assert not other.sampler._noise._cache


def test_copies_are_judged_in_rounds_that_did_not_copy(tables: TableEngine) -> None:
    drafter = cascade(tables)
    set_costs(drafter, own=(6, 1.8))
    rates = drafter.online_state.copy_acceptance["copied"]
    before = [rates.rate(length) for length in range(8)]
    draft = drafter.propose(state_of(tables, REPEATED), 9)
    assert draft.sources[0] == "drafted"
    observe_round(drafter, draft, [1, 2, 9])
    after = [rates.rate(length) for length in range(8)]
    change = [now / then for now, then in zip(after[1:], before[1:], strict=True)]
    others = change[6]
    assert change[2] > others, "1 was accepted after a match of three"
    assert change[3] > others, "so did 2, then after four"
    assert change[4] < others, "3 did not"
    assert change[5] == pytest.approx(others)


def test_a_copy_after_a_draft_counts_only_where_the_draft_was_accepted() -> None:
    table = torch.zeros(10, 10)
    table[9, 5] = table[5, 6] = 50.0
    for emitted, learned in (([5, 6, 7], True), ([5, 8], False)):
        engine = TableEngine(table, table)
        drafter = cascade(engine, gamma=2, max_copy=2)
        draft = drafter.propose(state_of(engine, BEFORE), 9)
        before = drafter.online_state.copy_acceptance["copied"].rate(2)
        observe_round(drafter, draft, emitted)
        assert (drafter.online_state.copy_acceptance["copied"].rate(2) > before) == learned


def test_drafted_tokens_count_up_to_the_first_that_was_rejected(tables: TableEngine) -> None:
    drafter = cascade(tables, auto_disable=False)
    draft = drafter.propose(state_of(tables, NEW), 9)
    margins = drafter._round.margins
    assert len(margins) == len(draft.tokens) == 3
    rates = FixedRates({})
    drafter.online_state.draft_acceptance = rates
    wrong = (draft.tokens[1] + 1) % 8
    observe_round(drafter, draft, [draft.tokens[0], wrong])
    assert rates.seen == [(margins[0], True), (margins[1], False)]


def test_rounds_that_copied_do_not_count_for_the_models_own_drafts(tables: TableEngine) -> None:
    drafter = cascade(tables)
    set_costs(drafter, own=(1, 3.0))
    own, gate = drafter.online_state.drafted.per_second, drafter.online_state.gate
    draft = drafter.propose(state_of(tables, REPEATED), 9)
    assert draft.sources[0] == "copied"
    since = gate._since_plain
    observe_round(drafter, draft, [1, 2, 3, 4])
    assert drafter.online_state.drafted.per_second == own
    assert gate._since_plain == since


def test_drafts_that_lose_are_paused_and_copies_continue(tables: TableEngine) -> None:
    drafter = cascade(tables)
    for _ in range(2 + CONFIG.gate_rounds):
        draft = drafter.propose(state_of(tables, REPEATED[:7]), 9)
        observe_round(drafter, draft, [1], 2.0 if draft.tokens else 0.0)
    assert drafter.propose(state_of(tables, REPEATED[:7]), 9).tokens == ()
    assert drafter.propose(state_of(tables, REPEATED), 9).sources[0] == "copied"


def test_drafts_that_lose_continue_where_pausing_is_disabled(tables: TableEngine) -> None:
    drafter = cascade(tables, auto_disable=False)
    for _ in range(40):
        draft = drafter.propose(state_of(tables, NEW), 9)
        assert draft.sources[0] == "drafted"
        observe_round(drafter, draft, [1], 2.0)


def test_the_next_text_keeps_the_measurements(tables: TableEngine) -> None:
    first = cascade(tables)
    set_costs(first, own=(1, 3.0))
    second = cascade(tables, online_state=first.online_state)
    assert second.propose(state_of(tables, REPEATED), 9).sources[0] == "copied"
    assert isinstance(second.online_state, OnlineState)
    assert second.online_state is first.online_state


def test_rows_are_weighed_by_what_the_drafter_of_a_shorter_text_learned(
    tables: TableEngine,
) -> None:
    before, after = (cascade(tables, auto_disable=False) for _ in range(2))
    set_costs(before, own=(1, 3.0))
    transfer_state(before, after)
    for drafter in (before, after):
        assert drafter.propose(state_of(tables, REPEATED), 9).sources[0] == "copied"


def test_drafted_tokens_do_not_enter_the_index_of_the_text() -> None:
    """Drafted tokens may be rejected, so no match may lead to them."""
    lookup, text = PromptLookupDrafter(), [1, 2, 3, 4, 1]
    lookup.index(text)
    assert lookup.find([*text, 2]) == 2
    assert lookup.find([*text, 8, 9]) is None
    lookup.index([*text, 5, 8])
    assert lookup.find([*text, 5, 8, 8]) is None


def test_copies_come_from_earlier_texts_too(tables: TableEngine) -> None:
    memory = DraftMemory()
    memory.add([9, 9, *REPEATED[:8], *REPEATED])
    drafter = cascade(tables, memory=memory)
    set_costs(drafter, own=(1, 3.0))
    draft = drafter.propose(state_of(tables, [0, 5, 6, 7]), 4)
    assert draft.tokens == (1, 2, 3, 4)
    assert draft.sources == ("remembered",) * 4
    alone = cascade(tables)
    set_costs(alone, own=(1, 3.0))
    assert alone.propose(state_of(tables, [0, 5, 6, 7]), 4).tokens == ()


def test_recycled_tokens_stand_beside_a_draft_whose_rows_cost_nothing(tables: TableEngine) -> None:
    drafter = cascade(tables, recycle=True, auto_disable=False)
    set_costs(drafter, row=0.0, own=(4, 1.8))
    draft = drafter.propose(state_of(tables, NEW), 9)
    assert draft.sources == ("drafted",) * 3
    wrong = (draft.tokens[0] + 1) % 8
    observe_round(drafter, draft, [wrong])
    again = drafter.propose(state_of(tables, NEW), 9)
    assert not again.is_chain
    assert set(again.sources) == {"drafted", "recycled"}
    assert again.forwards == 3


def test_second_choices_fill_rows_that_cost_nothing(tables: TableEngine) -> None:
    tables.takes_trees = True
    drafter = cascade(tables, auto_disable=False)
    set_costs(drafter, row=0.0, own=(4, 1.8))
    draft = drafter.propose(state_of(tables, NEW), 9)
    assert sorted(draft.sources) == ["drafted"] * 3 + ["runner-up"] * 3
    parent = NEW[-1]
    for drafted, second in zip(
        [i for i, word in enumerate(draft.sources) if word == "drafted"],
        sorted(
            (i for i, word in enumerate(draft.sources) if word == "runner-up"),
            key=lambda i: draft.depths()[i],
        ),
        strict=True,
    ):
        assert [draft.tokens[drafted], draft.tokens[second]] == tables.draft[parent].topk(2)[
            1
        ].tolist()
        parent = draft.tokens[drafted]


TWICE = [5, 6, 7, 1, 2, 5, 6, 7, 3, 4, 5, 6, 7]  # 3 follows, or 1


@pytest.mark.parametrize(("row", "takes_trees"), [(0.0, True), (0.0, False), (0.1, True)])
def test_a_second_copy_fills_rows_that_cost_nothing(
    tables: TableEngine, row: float, takes_trees: bool
) -> None:
    tables.takes_trees = takes_trees
    drafter = cascade(tables)
    set_costs(drafter, row=row, own=(1, 3.0))
    draft = drafter.propose(state_of(tables, TWICE), 9)
    branches = [token for token, at in zip(draft.tokens, draft.parents, strict=True) if at == -1]
    assert branches == ([3, 1] if takes_trees and not row else [3])
    assert set(draft.sources) == {"copied"}


def test_trees_begin_when_they_return_what_recording_their_step_takes(
    tables: TableEngine,
) -> None:
    tables.takes_trees = True
    pool = tables.target.runtime.step_caches
    pool.num_captured, pool.capture_seconds = 2, 4.0
    chains = []
    for _ in range(2):  # what earlier texts have lost counts too
        drafter = cascade(tables, auto_disable=False)
        set_costs(drafter, row=0.0, own=(4, 1.8))
        for _ in range(30):
            draft = drafter.propose(state_of(tables, NEW), 9)
            chains.append(draft.is_chain)
            assert len(draft.tokens) == (3 if draft.is_chain else 6)
    assert 0 < chains.index(False) < 40
    assert not any(chains[chains.index(False) :])


def test_a_model_that_takes_no_trees_gets_chains(tables: TableEngine) -> None:
    drafter = cascade(tables, auto_disable=False)
    set_costs(drafter, row=0.0, own=(4, 1.8))
    draft = drafter.propose(state_of(tables, NEW), 9)
    assert draft.is_chain
    assert draft.sources == ("drafted",) * 3


def test_rows_that_cost_much_hold_no_second_choices(tables: TableEngine) -> None:
    tables.takes_trees = True
    drafter = cascade(tables, auto_disable=False)
    set_costs(drafter, row=0.5, own=(4, 1.8))
    assert set(drafter.propose(state_of(tables, NEW), 9).sources) == {"drafted"}


def test_copies_behind_a_draft_are_not_charged_to_it(tables: TableEngine) -> None:
    """Two tokens of the model and four copied ones, which made verification take long."""
    drafter = cascade(tables, gamma=2)
    set_costs(drafter, row=0.1)
    learned = drafter.online_state
    learned.drafted = Throughput()
    trunk = [Guess(token, 0.9, "drafted") for token in (1, 2)]
    trunk += [Guess(token, 0.9, "copied") for token in (3, 4, 5, 6)]
    drafter._round = RoundGuesses(9, trunk, (), margins=(5, 5))
    draft = DraftTree.chain((1, 2, 3, 4, 5, 6), forwards=2)
    rows = torch.zeros(7, 10)
    drafter.observe(RoundOutcome(draft, (0, 1, 2), (1, 2, 3, 7), rows, None, 1.0, 5.0))
    assert learned.drafted.tokens.mean == 3
    assert learned.drafted.seconds.mean < 1.0 + 2.0


def test_trees_say_nothing_of_the_cost_of_chains(tables: TableEngine) -> None:
    drafter = cascade(tables)
    set_costs(drafter)
    costs = drafter.online_state.verify
    before, tree = costs(3), costs.tree
    draft = DraftTree((1, 2), (-1, -1))
    for _ in range(40):
        drafter.observe(RoundOutcome(draft, (0,), (1, 5), torch.zeros(3, 10), None, 0.0, 1.5))
    assert costs(3) == before
    assert costs.tree > tree


def test_where_a_plain_step_is_to_be_measured_nothing_is_drafted(tables: TableEngine) -> None:
    drafter = cascade(tables)
    set_costs(drafter)
    due = []
    for _ in range(2 * CONFIG.plain_every):
        due.append(drafter.online_state.gate.plain_is_due)
        draft = drafter.propose(state_of(tables, NEW), 3)
        assert bool(draft.tokens) is not due[-1]
        observe_round(drafter, draft, [*draft.tokens, 1])
    assert 1 <= sum(due) <= 2


def test_copies_are_read_ahead_by_the_draft_model(tables: TableEngine) -> None:
    """The current token was followed by two tokens before, which are run with it."""
    drafter = cascade(tables, short_drafts=True, gamma=4)
    set_costs(drafter, row=0.001, own=(5, 1.8))
    drafter.online_state.draft_step.add_seconds(0.5)
    drafter.online_state.copy_acceptance["copied"] = NgramAcceptance(share=0.5)
    ran = []
    greedy_step = tables.greedy_step

    def counted(tokens: Any) -> Any:
        ran.append(len(tokens))
        return greedy_step(tokens)

    tables.greedy_step = counted  # type: ignore[method-assign]
    draft = drafter.propose(state_of(tables, [5, 6, 7, 1, 2, 3, 5]), 4)
    assert draft.sources[0] == "drafted"
    assert ran[0] > 1
    assert draft.guessed == sum(ran) - len(ran)
    assert draft.forwards == len(ran)
