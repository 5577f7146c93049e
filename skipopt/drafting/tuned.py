"""Layer skipping that tunes mask, γ and τ while decoding, and decodes plainly while drafts lose.

After SWIFT (arXiv 2410.06916); `skipopt.online.tuner` describes the differences.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.drafting.base import DraftState, OnlineDrafter, RoundOutcome
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.repetition import repeats_from
from skipopt.runtime.draft_mode import with_vocabulary
from skipopt.scoring import score_recent_tokens

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState


class TunedDrafter(OnlineDrafter):
    """Drafts chains with the tuner's current parameters, and scores a candidate between rounds.

    When it drafts depends on measured times, so the default verifier is `match`. With `rejection`
    texts still have the target's distribution, but a seed does not reproduce them.

    Args:
        online_state: from `begin_tuning`; shared by the drafters of successive texts.
        clock: seconds.

    Raises:
        UsageError: a state without a tuner.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "match"

    def __init__(
        self,
        target: Target,
        online_state: OnlineState,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if online_state.tuner is None:
            raise UsageError("there is nothing to tune", hint="make it with begin_tuning")
        self.online_state = online_state
        self._tuner = online_state.tuner
        # As the times of rounds, that of scoring excludes the capture of steps.
        self._target, self._clock = target, target.runtime.clock_without_capture(clock)
        self.max_extra_rows = max(self._tuner.window, self._tuner.max_gamma)
        self._layer_skip = self._make_layer_skip()
        self._scored: int | None = None  # tokens of the text up to which nothing is left to score
        self._search_seconds = 0.0  # in this round
        online_state.gate.text_changed()

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        began = self._clock()
        self._choose_vocabulary(state)
        self._tune(state)
        self._search_seconds = self._clock() - began
        if not self.online_state.gate.wants_draft:
            return DraftTree()
        return self._layer_skip.propose(state, limit)

    def observe(self, outcome: RoundOutcome) -> None:
        learned, draft = self.online_state, outcome.draft
        seconds = outcome.draft_seconds - self._search_seconds
        learned.search_seconds += self._search_seconds
        learned.observe(
            tokens=len(outcome.emitted),
            rows=len(draft.tokens) + 1,
            draft_seconds=seconds,
            verify_seconds=outcome.verify_seconds,
            copied=False,
        )
        if draft.forwards and learned.verify.knows_plain:
            self._observe_drafted(outcome, seconds)

    def _observe_drafted(self, outcome: RoundOutcome, draft_seconds: float) -> None:
        plain = self.online_state.verify.plain
        self._tuner.observe_draft(outcome.draft.forwards, draft_seconds, plain)
        steps = (draft_seconds + outcome.verify_seconds) / plain
        if self._tuner.observe_round(len(outcome.emitted), steps):
            self._parameters_changed(promising=False)

    def _choose_vocabulary(self, state: DraftState) -> None:
        """Take the tokens of a draft vocabulary from the first text, for all drafts."""
        now = self._tuner.parameters
        config = with_vocabulary(self._target, now.draft_config, [state.tokens])
        if config != now.draft_config:
            self._tuner.parameters = replace(now, draft_config=config)
            self._layer_skip = self._make_layer_skip()

    def _tune(self, state: DraftState) -> None:
        """Score a candidate if enough new text and time are there."""
        position, window = state.engine.position, self._tuner.window
        if self._scored is None:
            self._scored = position  # the prompt was not generated
        if position - self._scored < window or not self._affordable():
            return
        self._scored = position
        # Every mask predicts degenerate repetition well.
        if repeats_from(state.tokens[-window:]) is None:
            self._score_candidate(state)

    def _score_candidate(self, state: DraftState) -> None:
        tuner, verify = self._tuner, self.online_state.verify
        candidate, current = tuner.candidate(), tuner.parameters
        began = self._clock()
        draft_model = self._layer_skip.draft_model
        traces = {
            mask: score_recent_tokens(
                state.engine,
                state.sampler,
                state.tokens,
                tuner.window,
                draft_model.drafting(state, mask),
                state.processing,
            )
            for mask in dict.fromkeys((candidate.mask, current.mask))
        }
        adopted = tuner.tell(traces[candidate.mask], traces[current.mask], tuner.costs(verify))
        tuner.scoring_seconds.add_seconds(self._clock() - began)
        if adopted is not None:
            self._parameters_changed(promising=adopted.candidate_speed > 1 / verify.plain)

    def _affordable(self) -> bool:
        tuner, learned = self._tuner, self.online_state
        return learned.affords(tuner.expected_seconds(learned.verify), tuner.config.overhead)

    def _parameters_changed(self, promising: bool) -> None:
        self._layer_skip = self._make_layer_skip()
        self.online_state.gate.drafts_changed(promising)

    def _make_layer_skip(self) -> LayerSkipDrafter:
        now = self._tuner.parameters
        return LayerSkipDrafter(
            self._target, now.mask, now.gamma, now.tau, draft_config=now.draft_config
        )
