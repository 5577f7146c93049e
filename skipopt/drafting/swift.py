"""SWIFT (Xia et al., arXiv 2410.06916): trees drafted under a mask that is tuned while decoding.

A tree is a chain that ends where the draft's confidence is low, with siblings of each of its
tokens: the lower the confidence, the more. Unlike the authors' code, trees hold no padding (there,
verification takes it for draft tokens), and the token after a fully accepted draft is drawn from
processed logits, as all tokens are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.base import DraftState, OnlineDrafter, RoundOutcome
from skipopt.drafting.tree import DraftKind, DraftTree
from skipopt.drafting.tree_builder import ROOT, TreeBuilder
from skipopt.drafting.without_replacement import best, level_scores
from skipopt.errors import UsageError
from skipopt.models.skip import skipping
from skipopt.one_thread import one_thread
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import SwiftMaskSearch, alternating
from skipopt.scoring import score_recent_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.masks import SkipMask
    from skipopt.models.target import Target

CONFIDENCE_LEVELS = (0.95, 0.8, 0.5)  # where the number of children changes


class SwiftDrafter(OnlineDrafter):
    """Drafts trees, searches for a better mask at times, and decodes plainly while drafts lose.

    When it drafts depends on measured times, so the default verifier is `match`. With `rejection`
    texts still have the target's distribution, but a seed does not reproduce them.

    Args:
        mask: the first mask; None skips every second layer.
        online_state: learned from earlier texts: `online_state` of an earlier text's drafter.
        max_depth: most levels of a tree.
        tau: confidence below which the chain ends; that token itself is still proposed.
        siblings: children per level, the chain's token included, for a confidence above 0.95,
            above 0.8, above 0.5, and below. The default is that of SWIFT's code; the paper has
            1-3-5-10.
        cost_aware: leave out siblings whose expected gain is below the cost of verifying a row.
        tune_mask: search for a better mask.
        search_overhead: the largest share of the decoding time that the search may take.
        score_tokens: number of last tokens that masks are scored on.
        skip_ratio, seed: as in `SwiftMaskSearch`.
        auto_disable: decode plainly while drafts do not pay.

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
    ) -> None:
        _check(max_depth, tau, siblings, search_overhead, score_tokens)
        if online_state is None:
            found = SwiftMaskSearch(target.depth, mask, skip_ratio, seed) if tune_mask else None
            online_state = OnlineState(mask_search=found)
        self.online_state = online_state
        self.max_extra_rows = max(max_depth * max(siblings), score_tokens)
        self._target = target
        self._first_mask = alternating(target.depth) if mask is None else mask
        self._skipping = skipping(self._target, self.mask)
        self._max_depth, self._tau, self._siblings = max_depth, tau, siblings
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
        return self._draft(state, min(self._max_depth, limit))

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
            score_recent_tokens(state.engine, state.sampler, tokens, self._score_tokens, mask)
            for mask in (candidate, before)
        )
        search.tell(candidate, found.matchness, current.matchness)
        if search.mask != before:
            self._skipping = skipping(self._target, search.mask)

    def _draft(self, state: DraftState, max_depth: int) -> DraftTree:
        """The chain and its siblings; the first child at each depth continues the chain."""
        draft_probs: dict[int, Tensor] = {}
        sources: list[str] = []
        node, chance = ROOT, 1.0
        with self._skipping, TreeBuilder(state) as builder:
            while builder.forwards < max_depth:
                logits = builder.run([node])  # (1, V)
                level = level_scores(
                    logits, state.sampler, len(state.tokens) + builder.depth(node)
                )
                if level.probs is not None:
                    draft_probs[node] = level.probs[0]
                count, sure = self._num_children(logits[0], chance)
                children = [builder.add(node, token) for token in best(level.scores[0], count)]
                sources += ["drafted", *["sibling"] * (len(children) - 1)]
                node, chance = children[0], chance * sure
                if sure < self._tau:
                    break
        kind: DraftKind = "without-replacement" if draft_probs else "point"
        tokens, parents = tuple(builder.tokens), tuple(builder.parents)
        return DraftTree(tokens, parents, kind, draft_probs, builder.forwards, tuple(sources))

    @one_thread()
    def _num_children(self, logits: Tensor, chance: float) -> tuple[int, float]:
        """(number of children to draw, confidence). Does not depend on the tokens drawn.

        Args:
            logits: of the parent.  # (V,)
            chance: the estimated probability that the chain is accepted up to the parent.
        """
        likely = logits.float().softmax(-1).topk(min(max(self._siblings), len(logits)))
        probs: list[float] = likely.values.tolist()
        sure = probs[0]
        level = sum(sure <= each for each in CONFIDENCE_LEVELS)
        cost = self._row_cost() if self._cost_aware else 0.0
        siblings = sum(chance * each > cost for each in probs[1 : self._siblings[level]])
        return 1 + siblings, sure

    def _row_cost(self) -> float:
        """The cost of verifying one more row, in tokens that could be decoded in its time."""
        return self.online_state.verify.per_row * self.online_state.rate


def _check(
    max_depth: int,
    tau: float,
    siblings: tuple[int, ...],
    search_overhead: float,
    score_tokens: int,
) -> None:
    if max_depth < 1:
        raise UsageError(f"max_depth must be 1 or more, not {max_depth}")
    if not 0 <= tau <= 1:
        raise UsageError(f"tau must lie in [0, 1], not {tau}")
    if len(siblings) != len(CONFIDENCE_LEVELS) + 1 or min(siblings) < 1:
        shown = "-".join(map(str, siblings))
        raise UsageError(
            f"siblings must be four numbers of 1 or more, not {shown}", hint="try 1-3-5-10"
        )
    if not 0 < search_overhead <= 1:
        raise UsageError(f"search_overhead must lie in (0, 1], not {search_overhead}")
    if score_tokens < 1:
        raise UsageError(f"score_tokens must be 1 or more, not {score_tokens}")
