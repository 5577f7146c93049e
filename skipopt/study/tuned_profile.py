"""Turns parameters that were tuned while generating into a profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipopt.measurement.provenance import environment_of, hash_of
from skipopt.profile import Profile

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState

SAMPLER = "tune-online"


def tuned_profile(
    target: Target,
    state: OnlineState,
    prompt: Sequence[int],
    start: Profile | None = None,
    seed: int = 0,
) -> Profile:
    """A profile of the current mask, γ, τ and draft config.

    Enabled if drafting with them was measured to pay.

    Args:
        prompt: token ids of the text that was generated from.
        start: the profile that tuning started from.
        seed: of the tuning.
    """
    tuned, reason = state.tuning_summary(), _reason_against(state, start)
    now = tuned.parameters
    return Profile.build(
        target,
        now.mask,
        gamma=now.gamma,
        tau=now.tau,
        draft_config=now.draft_config,
        enabled=reason is None,
        reason=reason,
        search={
            "sampler": SAMPLER,
            "objective": "speed",
            "trials": tuned.trials,
            "seconds": tuned.seconds,
            "seed": seed,
            "prompts": hash_of([prompt]),
            "breaks_even_after_tokens": None,
        },
        environment=environment_of(target),
    )


def _reason_against(state: OnlineState, start: Profile | None) -> str | None:
    """Why speculation is off in the profile; None if it pays."""
    gate = state.gate
    if gate.loss is not None:
        return _slower(gate.loss)
    if gate.gain is not None:
        return _slower(-gate.gain) if gate.gain < 0 else None
    if start is not None and not state.tuning_summary().switches:
        return start.reason  # nothing new is known
    return "too few drafted rounds to measure whether drafting pays"


def _slower(loss: float) -> str:
    return f"speculation was slower while tuning: {-loss:.2f} tokens per round vs plain"
