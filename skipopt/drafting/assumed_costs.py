"""Costs of rounds where a text depends on what is drafted: none of them is measured meanwhile.

Verification by rejection emits other tokens after another draft. A seed gives the same text again
only if what is drafted depends on tokens alone, and not on how long earlier rounds took.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from skipopt.averages import StepSeconds
from skipopt.drafting.base import RoundOutcome
from skipopt.online.acceptance import MarginAcceptance, copy_acceptance, draft_prior
from skipopt.online.config import OnlineConfig
from skipopt.online.gate import SpeculationGate
from skipopt.online.state import OnlineState
from skipopt.runtime.draft_mode import read_share
from skipopt.runtime.verify_costs import VerifyCostEstimator

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.models.target import Target
    from skipopt.runtime.break_even import Preparation

# In plain steps, where kernels for them exist, as on three machines (results/step-times*.md): a
# sampled draft step by the bits of its weights, and forwards over several rows.
STEPS = {None: 1.0, 8: 0.45, 4: 0.4}
USUAL_VERIFY = tuple(1 + 0.075 * (rows - 1) for rows in range(1, 10))
# How often the first copies in texts of temperature 0.7 are right, as a share of the priors: 0.72
# and 0.79 after the calibration prompts of two models (results/copy-acceptance.md).
SAMPLED_COPIES = 0.75
READINGS = 10  # that each assumed cost counts for
NEVER = 2**31  # rounds between two plain ones that measure a plain step


@dataclass(frozen=True, slots=True)
class AssumedCosts:
    """Seconds, or any other unit of time, of draft steps and of verification.

    Attributes:
        step: of a draft step.
        verify: of forwards over 1, 2, … rows.
    """

    step: float
    verify: tuple[float, ...]
    _estimate: VerifyCostEstimator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_estimate", _estimator(self.verify))

    def priced(self, outcome: RoundOutcome) -> RoundOutcome:
        """The outcome with these costs in place of the measured times."""
        draft = outcome.draft
        drafting = self.step * draft.forwards + self._estimate.per_row * draft.guessed
        verifying = self._estimate(1 + len(draft.tokens))
        return replace(outcome, draft_seconds=drafting, verify_seconds=verifying)

    def new_state(self, drafts: Preparation) -> OnlineState:
        """What is known at the beginning of a sampled text: these costs, and nothing measured."""
        gate = SpeculationGate(OnlineConfig(plain_every=NEVER))
        copies = copy_acceptance(SAMPLED_COPIES)
        step = StepSeconds()
        step.add_seconds(self.step)
        return OnlineState(
            _estimator(self.verify),
            gate,
            copy_acceptance=copies,
            draft_acceptance=_expected_acceptance(drafts),
            draft_step=step,
        )


def measured_state(target: Target, drafts: Preparation) -> OnlineState:
    """What is known at the beginning of a text whose rounds are timed: costs of earlier texts."""
    return OnlineState(
        target.runtime.verify_costs,
        draft_acceptance=_expected_acceptance(drafts),
        draft_step=target.runtime.draft_steps[drafts],
    )


def assumed_costs(target: Target, drafts: Preparation, measured: Costs | None) -> AssumedCosts:
    """Those that a search measured for these drafts, else usual ones.

    A step is then assumed to take as long as it takes to read its weights.
    """
    if measured is not None:
        return AssumedCosts(measured.draft_step(drafts.mask), measured.verify)
    bits = None if drafts.weights is None else drafts.weights.body
    return AssumedCosts(STEPS[bits] * read_share(target, drafts), USUAL_VERIFY)


def _expected_acceptance(drafts: Preparation) -> MarginAcceptance:
    """What is expected of draft tokens: it is known of quantized weights, and guessed of masks."""
    bits = None if drafts.weights is None else drafts.weights.body
    return MarginAcceptance(draft_prior(None if drafts.mask.skipped else bits))


def _estimator(verify: Iterable[float]) -> VerifyCostEstimator:
    estimate = VerifyCostEstimator()
    for rows, seconds in READINGS * list(enumerate(verify, start=1)):
        estimate.observe(rows, seconds)
    return estimate
