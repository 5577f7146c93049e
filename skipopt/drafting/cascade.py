"""Cascade drafting: each round uses the draft with the highest expected gain, or none.

Simplified from CAS-Spec (arXiv 2510.26843). A round copies from the context, or drafts with the
draft model and appends a copy to the draft, or decodes plainly. The gain of a choice is t − λ·s,
with the expected tokens t and seconds s of the round and the current decoding speed λ in tokens
per second. This makes rounds of different duration comparable: a positive gain raises the overall
speed.

A copy after a long match therefore replaces the draft of the model, and rows that verification
has for almost nothing are filled with copies that are seldom right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.base import DraftState, OnlineDrafter, RoundOutcome
from skipopt.drafting.copies import Copy, CopyFinder
from skipopt.drafting.deferred import DeferredDrafter
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.online.averages import MovingAverage
from skipopt.online.state import OnlineState

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.masks import SkipMask
    from skipopt.models.target import Target


class CascadeDrafter(OnlineDrafter):
    """Copies from the context, drafts with the model or decodes plainly, whichever gains most.

    The acceptance of copies is estimated in every round, also from copies that were not drafted.
    The gain of model drafts is estimated from the rounds that had one. Choices depend on past
    rounds and on the tokens before the copy only, so they do not bias sampling. They also depend
    on measured times, so the default verifier is `match`: with `rejection` the text has the
    target's distribution, but a seed does not reproduce it.

    Until preparing model drafts pays back (see `BreakEven`), rounds copy or decode plainly.

    Args:
        mask, gamma, tau, exit_layer, draft_config: as in `LayerSkipDrafter`.
        max_copy: most tokens of a copy.
        online_state: statistics of earlier texts, from the `online_state` of their drafter.
        auto_disable: make no model drafts while they do not pay.

    Raises:
        UsageError: neither mask, exit layer nor draft config, or a value out of range.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "match"

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None = None,
        gamma: int = 4,
        tau: float = 0.0,
        exit_layer: int | None = None,
        max_copy: int = 16,
        online_state: OnlineState | None = None,
        auto_disable: bool = True,
        draft_config: DraftConfig = UNCHANGED,
    ) -> None:
        self.online_state = online_state or OnlineState()
        self.max_extra_rows = gamma + max_copy
        self._layer_skip = LayerSkipDrafter(
            target, mask, gamma, tau, exit_layer, draft_config=draft_config
        )
        needed = self._layer_skip.draft_model.preparation
        deferred = DeferredDrafter(target, self._layer_skip, needed, None)
        self._deferred = deferred if target.runtime.puts_drafts_off else None
        self._finder = CopyFinder(max_copy)
        self._auto_disable = auto_disable
        self._copies = [Copy()]  # of this round, drafted or not
        self._stopped = False  # whether the model's draft ended before γ and the limit

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        learned, tokens = self.online_state, state.tokens
        self._finder.index(tokens)
        copy = self._finder.find(tokens, (), limit)
        self._copies, self._stopped = [copy], False
        count, extra = self._best_copy(copy, rows=1, chance=1.0)
        plain = 1 - learned.rate * learned.verify.plain
        begun = self._deferred is None or self._deferred.may_begin(limit + 1)
        drafts = begun and (not self._auto_disable or learned.gate.wants_draft)
        if count and plain + extra > (self._model_gain(limit) if drafts else plain):
            return DraftTree.chain(copy.tokens[:count], sources=["copied"] * count)
        if not drafts:
            return DraftTree(put_off=not begun)
        return self._draft(state, limit)

    def observe(self, outcome: RoundOutcome) -> None:
        for copy in self._copies:
            self._learn(copy, outcome.emitted)
        if drafted := self._copies[-1].after:
            self._full_acceptance.add(len(outcome.path) >= drafted)
        self.online_state.observe(
            tokens=len(outcome.emitted),
            rows=len(outcome.draft.tokens) + 1,
            draft_seconds=outcome.draft_seconds,
            verify_seconds=outcome.verify_seconds,
            copied=not drafted,
        )
        if self._deferred is not None and outcome.draft.put_off:
            self._deferred.observe(outcome)

    def _draft(self, state: DraftState, limit: int) -> DraftTree:
        """A draft of the model, followed by a copy if that is expected to gain."""
        model_draft = self._layer_skip.propose(state, limit)
        drafted = len(model_draft.tokens)
        if not drafted:
            return model_draft
        self._stopped = drafted < min(self._layer_skip.gamma, limit)
        copy = self._finder.find(state.tokens, model_draft.tokens, limit - drafted)
        self._copies.append(copy)
        acceptance = self._full_acceptance
        chance = acceptance.mean if acceptance.weight else 0.5
        count, _ = self._best_copy(copy, rows=drafted + 1, chance=chance)
        probs = [model_draft.draft_probs[i - 1] for i in range(len(model_draft.draft_probs))]
        probs += [_point_mass(token, probs[0]) for token in copy.tokens[:count] if probs]
        sources = ["drafted"] * drafted + ["copied"] * count
        return DraftTree.chain(
            model_draft.tokens + copy.tokens[:count], probs, model_draft.forwards, sources
        )

    @property
    def _full_acceptance(self) -> MovingAverage:
        """How often all tokens of a model draft like that of this round are accepted."""
        learned = self.online_state
        return learned.stopped_acceptance if self._stopped else learned.full_acceptance

    def _learn(self, copy: Copy, emitted: tuple[int, ...]) -> None:
        """Update the acceptance of copies from the emitted tokens, up to the first that differs.

        If a draft token before the copy was rejected, there is nothing to compare it with.
        """
        for i, (guess, token) in enumerate(zip(copy.tokens, emitted[copy.after :], strict=False)):
            self.online_state.ngram_acceptance.observe(copy.matched + i, guess == token)
            if guess != token:
                return

    def _best_copy(self, copy: Copy, rows: int, chance: float) -> tuple[int, float]:
        """The number of tokens to copy and the expected gain; both 0 if no copy would gain.

        Args:
            rows: rows of the verifying forward without the copy.
            chance: the probability that everything before the copy is accepted.
        """
        learned = self.online_state
        accepted = learned.ngram_acceptance.expected(copy.matched, len(copy.tokens))
        seconds = learned.verify.up_to(rows + len(copy.tokens))[rows - 1 :]
        gains = [
            chance * tokens - learned.rate * (each - seconds[0])
            for tokens, each in zip(accepted, seconds, strict=True)
        ]
        count = max(range(len(gains)), key=gains.__getitem__)
        return count, gains[count]

    def _model_gain(self, limit: int) -> float:
        """Expected gain of a model draft.

        If it is not known or outdated, that of a draft which is right and takes no time: only a
        copy that no model draft can exceed then keeps one from being made.
        """
        learned = self.online_state
        recent = learned.rounds_since_drafted < learned.gate.config.plain_every
        if learned.drafted.known and recent:
            return learned.drafted.gain(learned.rate)
        rows = 1 + min(self._layer_skip.gamma, limit)
        return rows - learned.rate * learned.verify(rows)


def _point_mass(token: int, like: Tensor) -> Tensor:
    """Probability 1 for the token.  # (V,)"""
    probs = like.new_zeros(like.shape)
    probs[token] = 1.0
    return probs
