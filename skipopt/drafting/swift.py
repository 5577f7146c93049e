"""SWIFT (Xia et al., arXiv 2410.06916): trees drafted under a mask that is tuned while decoding.

A tree is a chain that ends where the draft's confidence is low, with siblings of each of its
tokens: the lower the confidence, the more. Unlike the authors' code, trees hold no padding (there,
verification takes it for draft tokens), and the token after a fully accepted draft is drawn from
processed logits, as all tokens are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.base import DraftState, OnlineDrafter, RoundOutcome
from skipopt.drafting.draft_model import DraftModel
from skipopt.drafting.swift_tree import SwiftTree
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import SwiftMaskSearch, alternating
from skipopt.scoring import score_recent_tokens

if TYPE_CHECKING:
    from skipopt.models.target import Target


class SwiftDrafter(OnlineDrafter):
    """Drafts trees, searches for a better mask at times, and decodes plainly while drafts lose.

    When it drafts depends on measured times, so the default verifier is `match`. With `rejection`
    texts still have the target's distribution, but a seed does not reproduce them.

    Args:
        mask: the first mask; None skips every second layer, or nothing with a draft config.
        online_state: learned from earlier texts: `online_state` of an earlier text's drafter.
        max_depth, tau, siblings: as in `SwiftTree`. The default of `siblings` is that of SWIFT's
            code; the paper has 1-3-5-10.
        cost_aware: leave out siblings whose expected gain is below the cost of verifying a row.
        tune_mask: search for a better mask.
        search_overhead: the largest share of the decoding time that the search may take.
        score_tokens: number of last tokens that masks are scored on.
        skip_ratio, seed: as in `SwiftMaskSearch`.
        auto_disable: decode plainly while drafts do not pay.
        draft_config: what makes drafts cheaper in addition to the mask.

    Raises:
        UsageError: a value out of range.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "match"

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None = None,
        online_state: OnlineState | None = None,
        max_depth: int = 25,
        tau: float = 0.8,
        siblings: tuple[int, ...] = (3, 5, 8, 10),
        cost_aware: bool = True,
        tune_mask: bool = True,
        search_overhead: float = 0.1,
        score_tokens: int = 50,
        skip_ratio: float | None = None,
        seed: int = 0,
        auto_disable: bool = True,
        draft_config: DraftConfig = UNCHANGED,
    ) -> None:
        _check(search_overhead, score_tokens)
        self._tree = SwiftTree(max_depth, tau, siblings)
        if mask is None and draft_config:
            mask = SkipMask.empty(target.depth)
        if online_state is None:
            unskippable = target.unskippable
            found = (
                SwiftMaskSearch(target.depth, mask, skip_ratio, seed, unskippable)
                if tune_mask
                else None
            )
            online_state = OnlineState(target.runtime.verify_costs, mask_search=found)
        self.online_state = online_state
        self.max_extra_rows = max(self._tree.max_rows, score_tokens)
        self._first_mask = alternating(target.depth) if mask is None else mask
        self.draft_model = DraftModel(target, self.mask, draft_config)
        self._cost_aware = cost_aware
        self._search_overhead, self._score_tokens = search_overhead, score_tokens
        self._auto_disable = auto_disable
        self._prompt: int | None = None
        self._search_seconds = 0.0  # in this round

    @property
    def mask(self) -> SkipMask:
        """The active mask."""
        search = self.online_state.mask_search
        return self._first_mask if search is None else search.mask

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        began = time.perf_counter()
        self._tune_mask(state)
        self._search_seconds = time.perf_counter() - began
        if self._auto_disable and not self.online_state.gate.wants_draft:
            return DraftTree()
        return self._draft(state, limit)

    def observe(self, outcome: RoundOutcome) -> None:
        self.online_state.search_seconds += self._search_seconds
        self.online_state.observe(
            tokens=len(outcome.emitted),
            rows=len(outcome.draft.tokens) + 1,
            draft_seconds=outcome.draft_seconds - self._search_seconds,
            verify_seconds=outcome.verify_seconds,
            copied=False,
        )

    def _tune_mask(self, state: DraftState) -> None:
        """Score one candidate mask, if enough time and text is available."""
        learned, tokens = self.online_state, state.tokens
        if self._prompt is None:
            self._prompt = len(tokens)
        search = learned.mask_search
        too_expensive = not learned.affords(0.0, self._search_overhead)
        too_short = len(tokens) - self._prompt <= self._score_tokens
        if search is None or search.done or too_expensive or too_short:
            return
        before, candidate = search.mask, search.propose()
        found, current = (
            score_recent_tokens(
                state.engine,
                state.sampler,
                tokens,
                self._score_tokens,
                self.draft_model.drafting(state, mask),
                state.processing,
            )
            for mask in (candidate, before)
        )
        search.tell(candidate, found.matchness, current.matchness)
        self.draft_model.mask = search.mask

    def _draft(self, state: DraftState, limit: int) -> DraftTree:
        if self.draft_model.idle:
            return DraftTree()
        with self.draft_model.drafting(state):
            return self._tree.grow(state, limit, self._row_cost())

    def _row_cost(self) -> float:
        """The cost of verifying one more row, in tokens that could be decoded in its time."""
        learned = self.online_state
        return learned.verify.per_row * learned.rate if self._cost_aware else 0.0


def _check(search_overhead: float, score_tokens: int) -> None:
    if not 0 < search_overhead <= 1:
        raise UsageError(f"search_overhead must lie in (0, 1], not {search_overhead}")
    if score_tokens < 1:
        raise UsageError(f"score_tokens must be 1 or more, not {score_tokens}")
