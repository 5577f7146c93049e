"""SWIFT: trees drafted under a mask that is improved while text is generated.

Xia et al., arXiv 2410.06916. A top-1 chain that ends where the draft is unsure, and at each depth
siblings of the chain's token, the more the less sure it is. Their code pads short paths with
token 0, which verification then takes for a draft, and draws the token after a fully accepted
draft from unprocessed logits; here a tree holds no padding, and every token is the verifier's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.tree import DraftTree, Kind
from skipopt.drafting.tree_builder import ROOT, TreeBuilder
from skipopt.drafting.without_replacement import best, level_scores
from skipopt.errors import UsageError
from skipopt.models.skip import skipping
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import SwiftMaskSearch, alternating, matchness

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.masks import SkipMask
    from skipopt.models.target import Target

LEVELS = (0.95, 0.8, 0.5)  # confidences at which the number of children changes


class SwiftDrafter(Drafter):
    """Drafts trees, searches for a better mask now and then, and decodes plainly where it loses.

    What it does depends on measured times, so its drafts are matched unless rejection sampling is
    asked for: then texts are still distributed as the target's, but a seed does not repeat them.

    Args:
        mask: to begin with; None is every second layer.
        adaptation: what earlier texts taught: `online_state` of the drafter of a text before this.
        max_depth: greatest depth of a tree.
        tau: confidence below which the chain ends; the unsure token itself is still proposed.
        siblings: children at each depth, the chain's among them, where confidence is above 0.95,
            above 0.8, above 0.5, and below. SWIFT's code has the default; its paper 1-3-5-10.
        cost_aware: leave out siblings whose chance is not worth what verifying a row costs.
        tune_mask: look for a better mask.
        search_overhead: of the decoding time, the most that the search may take.
        score_tokens: generated tokens that masks are scored on.
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
            online_state = OnlineState(search=found)
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
        self._searched = 0.0  # seconds of this round

    @property
    def mask(self) -> SkipMask:
        """The mask in force."""
        search = self.online_state.search
        return self._first_mask if search is None else search.mask

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        began = time.perf_counter()
        self._improve(state)
        self._searched = time.perf_counter() - began
        if self._auto_disable and not self.online_state.gate.wants_draft:
            return DraftTree()
        return self._grow(state, min(self._max_depth, limit))

    def observe(self, outcome: RoundOutcome) -> None:
        self.online_state.search_seconds += self._searched
        self.online_state.observe(
            tokens=len(outcome.emitted),
            rows=len(outcome.draft.tokens) + 1,
            draft_seconds=outcome.draft_seconds - self._searched,
            verify_seconds=outcome.verify_seconds,
            copied=False,
        )

    def _improve(self, state: DraftState) -> None:
        """Score one candidate, if there is a search, time for it and text enough."""
        learned, tokens = self.online_state, state.tokens
        if self._prompt is None:
            self._prompt = len(tokens)
        spent, search = learned.search_seconds, learned.search
        too_dear = spent > self._search_overhead * (spent + learned.decode_seconds)
        too_short = len(tokens) - self._prompt <= self._score_tokens
        if search is None or search.done or too_dear or too_short:
            return
        before, candidate = search.mask, search.propose()
        value, in_force = (
            matchness(state.engine, state.sampler, tokens, self._score_tokens, mask)
            for mask in (candidate, before)
        )
        search.tell(candidate, value, in_force)
        if search.mask != before:
            self._skipping = skipping(self._target, search.mask)

    def _grow(self, state: DraftState, deepest: int) -> DraftTree:
        """The chain and its siblings; the first child of each place goes on with the chain."""
        rows: dict[int, Tensor] = {}
        sources: list[str] = []
        node, reach = ROOT, 1.0
        with self._skipping, TreeBuilder(state) as growth:
            while growth.forwards < deepest:
                logits = growth.run([node])  # (1, V)
                level = level_scores(logits, state.sampler, len(state.tokens) + growth.depth(node))
                if level.probs is not None:
                    rows[node] = level.probs[0]
                count, sure = self._how_many(logits[0], reach)
                children = [growth.add(node, token) for token in best(level.scores[0], count)]
                sources += ["drafted", *["sibling"] * (len(children) - 1)]
                node, reach = children[0], reach * sure
                if sure < self._tau:
                    break
        kind: Kind = "without-replacement" if rows else "point"
        tokens, parents = tuple(growth.tokens), tuple(growth.parents)
        return DraftTree(tokens, parents, kind, rows, growth.forwards, tuple(sources))

    def _how_many(self, logits: Tensor, reach: float) -> tuple[int, float]:
        """How many children to draw, and the confidence; by the row and what came before only.

        Args:
            reach: the chance that the chain stands up to here.
        """
        likely = logits.float().softmax(-1).topk(min(max(self._siblings), len(logits)))
        chances: list[float] = likely.values.tolist()
        sure = chances[0]
        level = sum(sure <= each for each in LEVELS)
        price = (
            self.online_state.verify.per_row * self.online_state.rate if self._cost_aware else 0.0
        )
        worth = sum(reach * chance > price for chance in chances[1 : self._siblings[level]])
        return 1 + worth, sure


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
    if len(siblings) != len(LEVELS) + 1 or min(siblings) < 1:
        shown = "-".join(map(str, siblings))
        raise UsageError(f"siblings are four numbers from 1 on, not {shown}", hint="try 1-3-5-10")
    if not 0 < search_overhead <= 1:
        raise UsageError(f"search_overhead must lie in (0, 1], not {search_overhead}")
    if score_tokens < 1:
        raise UsageError(f"score_tokens must be 1 or more, not {score_tokens}")
