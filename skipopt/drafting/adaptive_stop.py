"""A draft confidence threshold τ that adapts to the acceptance rate."""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.errors import UsageError

ACCEPTANCE_DECAY = 0.5  # β1
TAU_DECAY = 0.9  # β2


@dataclass(slots=True)
class AdaptiveStop:
    """The adaptive draft-exiting of Draft & Verify (arXiv 2309.08168).

        AR ← β1·AR + (1 − β1)·accepted/drafted, starting from AR = 0
        τ' = τ + ε  if AR is below the target acceptance rate
             τ      else if the draft had its full length
             τ − ε  else
        τ  ← β2·τ + (1 − β2)·τ'

    So a round moves τ by at most a tenth of ε. Unlike in the original, τ stays in [0, 1].

    Attributes:
        target_acceptance: the acceptance rate to reach.
        tau_step: ε.
        acceptance: AR, the running acceptance rate.

    Raises:
        UsageError: target_acceptance outside [0, 1], or tau_step outside (0, 1].
    """

    target_acceptance: float = 0.9
    tau_step: float = 0.01
    acceptance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.target_acceptance <= 1:
            raise UsageError(f"target_acceptance must lie in [0, 1], not {self.target_acceptance}")
        if not 0 < self.tau_step <= 1:
            raise UsageError(f"tau_step must lie in (0, 1], not {self.tau_step}")

    def follow(self, tau: float, accepted: int, drafted: int, full: bool) -> float:
        """The next τ.

        Args:
            full: whether the draft had its full length, so that a lower τ would not lengthen it.
        """
        if not drafted:
            return tau
        rate = accepted / drafted
        self.acceptance = ACCEPTANCE_DECAY * self.acceptance + (1 - ACCEPTANCE_DECAY) * rate
        moved = tau if full else tau - self.tau_step
        if self.acceptance < self.target_acceptance:
            moved = tau + self.tau_step
        return min(1.0, max(0.0, TAU_DECAY * tau + (1 - TAU_DECAY) * moved))
