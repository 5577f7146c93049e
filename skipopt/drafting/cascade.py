"""Cascade drafting: each round verifies the guesses with the highest expected gain, or none.

Extends CAS-Spec (arXiv 2510.26843). A round begins with a copy from the text, with a draft of the
model that a copy follows, or with nothing; recycled tokens stand beside them. As many of these
guesses are verified as pay. The gain of a round is t − λ·s, with its expected tokens t and seconds
s, and the decoding speed λ in tokens per second: a positive gain raises that speed.

A copy after a long match therefore replaces the draft of the model, and rows that cost almost
nothing are filled with guesses that are seldom right, as with the draft's second choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.assumed_costs import AssumedCosts, assumed_costs, measured_state
from skipopt.drafting.base import DraftState, OnlineDrafter, RoundOutcome
from skipopt.drafting.copies import CopyFinder
from skipopt.drafting.deferred import DeferredDrafter
from skipopt.drafting.guess_tree import MAX_ROWS, Beside, GuessTree, nothing_beside
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.recycling import Recycling
from skipopt.drafting.round_guesses import RoundGuesses, drafted_guesses, drawn_chain
from skipopt.drafting.row_budget import MAX_DRAFT, RowBudget
from skipopt.drafting.tree import DraftTree
from skipopt.online.state import OnlineState

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target


class CascadeDrafter(OnlineDrafter):
    """Copies from the context, drafts with the model or decodes plainly, as far as it gains.

    The acceptance of copies and of recycled tokens is estimated in every round, also where they
    were not drafted. The gain of model drafts is estimated from the rounds that had one. Choices
    depend on past rounds and on the tokens before the guesses only, so they do not bias sampling.

    With `match`, where the text is the same whatever is drafted, choices depend on measured times
    too, and rounds go without model drafts until preparing them pays back (see `BreakEven`). With
    `rejection`, costs are assumed (see `AssumedCosts`), so that a seed reproduces the text. That
    is the default verifier, except with earlier texts, which are to change no text.

    Args:
        mask, gamma, tau, exit_layer, draft_config: as in `LayerSkipDrafter`; drafts end before
            γ tokens where one more does not pay.
        max_copy: most tokens of a copy.
        recycle: also guess tokens that were likely after the same token before. That takes the
            likeliest tokens of every row, so it pays where rows cost next to nothing.
        online_state: statistics of earlier texts, from the `online_state` of their drafter.
        auto_disable: make no model drafts while they do not pay.
        memory: earlier texts to copy from too.
        costs: measured for these drafts; assumed with `rejection`. None for usual ones.

    Raises:
        UsageError: neither mask, exit layer nor draft config, or a value out of range.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "rejection"

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None = None,
        gamma: int = MAX_DRAFT,
        tau: float = 0.0,
        exit_layer: int | None = None,
        max_copy: int = 16,
        recycle: bool = False,
        online_state: OnlineState | None = None,
        auto_disable: bool = True,
        draft_config: DraftConfig = UNCHANGED,
        memory: DraftMemory | None = None,
        costs: Costs | None = None,
    ) -> None:
        self._target = target
        if memory is not None:
            self.best_verifier = "match"  # type: ignore[misc]
        self.max_extra_rows = max(MAX_ROWS if recycle else 0, gamma + max_copy)
        self._layer_skip = LayerSkipDrafter(
            target, mask, gamma, tau, exit_layer, draft_config=draft_config
        )
        drafts = self._layer_skip.draft_model.preparation
        self.online_state = online_state or measured_state(target, drafts)
        self._costs = costs
        self._assumed: AssumedCosts | None = None
        deferred = DeferredDrafter(target, self._layer_skip, drafts, None)
        self._layer_skip.names_runners_up = True
        self._deferred = deferred if target.runtime.puts_drafts_off else None
        self._finder = CopyFinder(max_copy, memory)
        self._recycling = Recycling() if recycle else None
        self._auto_disable = auto_disable
        self._round = RoundGuesses()

    @property
    def _budget(self) -> RowBudget:
        return RowBudget(self.online_state, self._layer_skip.gamma)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if not state.sampler.coupled and self._assumed is None:
            self._assume_costs()
        learned, tokens = self.online_state, state.tokens
        copy = self._finder.find(tokens, (), limit)
        self._round = RoundGuesses.of_copy(learned, tokens[-1], copy, state.engine.takes_trees)
        tree, count, extra = self._chosen(limit, state.sampler.coupled)
        plain = 1 - learned.rate * learned.verify.plain
        begun = self._deferred is None or self._deferred.may_begin(limit + 1)
        pays = begun and (learned.gate.enabled or not self._auto_disable)
        if count and plain + extra > (self._budget.model_gain(limit) if pays else plain):
            return tree.draft(count)
        if pays and not (self._auto_disable and learned.gate.plain_is_due):
            return self._draft(state, limit)
        return DraftTree(put_off=not begun)

    def _assume_costs(self) -> None:
        """From now on choices depend on no measured time."""
        drafts = self._layer_skip.draft_model.preparation
        self._assumed = assumed_costs(self._target, drafts, self._costs)
        self.online_state = self._assumed.new_state(drafts)
        self._deferred = None

    def observe(self, outcome: RoundOutcome) -> None:
        if self._assumed is not None:
            outcome = self._assumed.priced(outcome)
        learned, guesses = self.online_state, self._round
        guesses.judge(learned, outcome.emitted)
        if self._recycling is not None:
            self._recycling.observe(learned, guesses.current, guesses.trunk, outcome)
        learned.observe(
            len(outcome.emitted),
            len(outcome.draft.tokens) + 1,
            outcome.draft_seconds,
            outcome.verify_seconds,
            copied=True,
            branches=not outcome.draft.is_chain,
        )
        guesses.judge_draft(learned, outcome)
        if self._deferred is not None and outcome.draft.put_off:
            self._deferred.observe(outcome)

    def _draft(self, state: DraftState, limit: int) -> DraftTree:
        """A draft of the model, followed by a copy, and what pays beside them."""
        learned = self.online_state
        self._layer_skip.goes_on = self._budget.draft_length()
        self._layer_skip.expects = partial(self._expected, state.tokens)
        made = self._layer_skip.propose(state, limit)
        drafted = len(made.tokens)
        if not drafted:
            return made
        margins = made.margins or (None,) * drafted
        copy = self._finder.find(state.tokens, made.tokens, limit - drafted)
        trunk = drafted_guesses(learned, made, margins, copy)
        self._round = RoundGuesses(state.tokens[-1], trunk, [*self._round.copies, copy], margins)
        drawn = made.kind != "point"
        tree, count, _ = self._chosen(limit, not drawn, least=drafted if drawn else 1)
        draft = tree.draft(count, made.forwards)
        if drawn:
            draft = drawn_chain(draft, made)
        return replace(draft, guessed=made.guessed)

    def _expected(self, tokens: Sequence[int], drafted: Sequence[int], most: int) -> list[int]:
        """Tokens of a copy that the draft model reads ahead, after those drafted so far."""
        return self._budget.read_ahead(self._finder.find(tokens, drafted, most))

    def _chosen(self, depth: int, branches: bool, least: int = 0) -> tuple[GuessTree, int, float]:
        """The guesses of this round, how many of them are verified, and the gain of these.

        Args:
            branches: also guesses beside the trunk.
            least: how many are verified in any case.
        """
        tree = self._tree(depth, branches)
        count, gain = self._budget.pays(tree, least)
        if count <= tree.chain_length:
            return tree, count, gain
        chain = self._tree(depth, branches=False)
        fewer, less = self._budget.pays(chain, least)
        saved, runtime = (gain - less) / self.online_state.rate, self._target.runtime
        if runtime.break_even.may_verify_tree(saved, runtime.step_caches.mean_capture_seconds):
            return tree, count, gain
        return chain, fewer, less

    def _tree(self, depth: int, branches: bool) -> GuessTree:
        """The guesses of this round: the trunk, and beside it what may pay."""
        learned, guesses = self.online_state, self._round
        beside: Beside = nothing_beside
        if branches and self._recycling is not None:
            beside = partial(self._recycling.beside, learned)
        least = learned.rate * learned.verify.per_row / 2 if branches else inf
        return GuessTree(guesses.current, guesses.trunk, beside, depth, self.max_extra_rows, least)
