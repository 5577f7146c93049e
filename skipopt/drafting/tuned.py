"""Layer skipping that tunes mask, γ and τ while decoding, and decodes plainly while drafts lose.

After SWIFT (arXiv 2410.06916); `skipopt.online.tuner` describes the differences.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from skipopt.drafting.base import DraftState, OnlineDrafter, RoundOutcome
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.registry import GIVEN
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.methods import read_options
from skipopt.online.online_costs import DraftCostEstimator
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import alternating
from skipopt.online.traces import score
from skipopt.online.tuner import DraftParameters, OnlineTuner
from skipopt.repetition import repeats_from

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.methods import MethodSpec
    from skipopt.models.target import Target
    from skipopt.profile import Profile

METHOD = "layer-skip"  # the method that can be tuned
OPTIONS = ("gamma", "tau", "verify")  # its options that tuning allows


def check_tunable(spec: MethodSpec) -> None:
    """Check that a method can be tuned.

    Raises:
        UsageError: it cannot, or one of its options excludes tuning.
    """
    if spec.name != METHOD:
        raise UsageError(f"{spec.name} cannot be tuned", hint=f"tuning is for {METHOD}")
    for key in spec.options:
        if key not in OPTIONS:
            raise UsageError(
                f"{key} leaves nothing to tune", hint=f"with tuning: {', '.join(OPTIONS)}"
            )


def begin_tuning(
    target: Target, spec: MethodSpec, profile: Profile | None, share: float, seed: int
) -> OnlineState:
    """A new online state for tuning.

    It starts from the profile's mask, γ and τ, or from SWIFT's first mask if that skips nothing.

    Args:
        share, seed: as in `OnlineTuner`.

    Raises:
        UsageError: a method that cannot be tuned, or a value out of range.
    """
    check_tunable(spec)
    settings = None if profile is None else profile.at(0)
    values: dict[str, Any] = (
        {} if settings is None else {"gamma": settings.gamma, "tau": settings.tau}
    )
    own = {key: text for key, text in spec.options.items() if key != "verify"}
    values |= read_options(spec.name, own, LayerSkipDrafter, GIVEN)
    mask = alternating(target.depth)
    if profile is not None and profile.skip_mask.skipped:
        mask = profile.skip_mask
    first = LayerSkipDrafter(target, mask, **values)  # it checks them
    tuning = OnlineTuner(DraftParameters(mask, first.gamma, first.tau), share, seed)
    return OnlineState(tuning=tuning, draft=DraftCostEstimator(2 * target.depth))


class TunedDrafter(OnlineDrafter):
    """Drafts chains with the active mask, γ and τ, and searches for better ones between rounds.

    When it drafts depends on measured times, so the default verifier is `match`. With `rejection`
    texts still have the target's distribution, but a seed does not reproduce them.

    Args:
        online_state: from `begin_tuning`; shared by the drafters of successive texts.
        clock: seconds.

    Raises:
        UsageError: an online state without tuning.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "match"

    def __init__(
        self,
        target: Target,
        online_state: OnlineState,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if online_state.tuning is None or online_state.draft is None:
            raise UsageError("there is nothing to tune", hint="make it with begin_tuning")
        self.online_state = online_state
        self._tuning, self._costs = online_state.tuning, online_state.draft
        self._target, self._clock = target, clock
        self.max_extra_rows = max(self._tuning.window, self._tuning.longest)
        self._drafter = self._make_drafter()
        self._scored: int | None = None  # number of first tokens that are not scored (again)
        self._search_seconds = 0.0  # in this round
        online_state.gate.text_changed()

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        began = self._clock()
        self._tune(state)
        self._search_seconds = self._clock() - began
        if not self.online_state.gate.wants_draft:
            return DraftTree()
        return self._drafter.propose(state, limit)

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
        tuning, plain = self._tuning, self.online_state.verify.plain
        skipped, forwards = len(tuning.setting.mask.skipped), outcome.draft.forwards
        self._costs.observe(skipped, draft_seconds / forwards, plain)
        steps = (draft_seconds + outcome.verify_seconds) / plain
        if tuning.observe(len(outcome.emitted), steps):
            self._drafter = self._make_drafter()
            self.online_state.gate.drafts_changed(promising=False)

    def _tune(self, state: DraftState) -> None:
        """Score a candidate and the active setting, if enough time and text is available."""
        place = state.engine.position
        if self._scored is None:
            self._scored = place  # the prompt is not scored
        if place - self._scored < self._tuning.window or not self._affordable():
            return
        self._scored = place
        if repeats_from(state.tokens[-self._tuning.window :]) is not None:
            return  # every mask predicts degenerate repetition well
        candidate, in_force = self._tuning.candidate(), self._tuning.setting
        began = self._clock()
        traces = {
            mask: score(state.engine, state.sampler, state.tokens, self._tuning.window, mask)
            for mask in dict.fromkeys((candidate.mask, in_force.mask))
        }
        won = self._tuning.tell(traces[candidate.mask], traces[in_force.mask], self._round_seconds)
        self._tuning.bout.add_seconds(self._clock() - began)
        if won is not None:
            self._drafter = self._make_drafter()
            plain = 1 / self.online_state.verify.plain
            self.online_state.gate.drafts_changed(promising=won.speed > plain)

    def _affordable(self) -> bool:
        learned, tuning = self.online_state, self._tuning
        guess = 2 * learned.verify(tuning.window)
        bout = tuning.bout.mean if tuning.bout.weight else guess
        return learned.affords(bout + tuning.price, tuning.share)

    def _round_seconds(self, mask: SkipMask, drafted: int) -> float:
        verify = self.online_state.verify
        step = self._costs(len(mask.skipped), verify.plain)
        return drafted * step + verify(drafted + 1)

    def _make_drafter(self) -> LayerSkipDrafter:
        now = self._tuning.setting
        return LayerSkipDrafter(self._target, now.mask, now.gamma, now.tau)
