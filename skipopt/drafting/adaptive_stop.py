"""A draft confidence threshold τ that adapts to the acceptance rate."""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.errors import UsageError

ACCEPTANCE_DECAY = 0.5  # β1
TAU_DECAY = 0.9  # β2


@dataclass(slots=True)
class AdaptiveStop:
    """Adapts τ after each round, as the adaptive draft exit of Draft & Verify (arXiv 2309.08168).

        AR ← β1·AR + (1 − β1)·accepted/drafted, starting from AR = 0
        τ' = τ + ε  if AR is below the target acceptance rate
             τ      else if the draft had its full length
             τ − ε  otherwise
        τ  ← β2·τ + (1 − β2)·τ'

    A round therefore changes τ by at most 0.1·ε. Unlike in the paper, τ is limited to [0, 1].

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

    def next_tau(self, tau: float, accepted: int, drafted: int, full: bool) -> float:
        """The next τ.

        Args:
            full: whether the draft had γ tokens, so that a lower τ would not make it longer.
        """
        if not drafted:
            return tau
        rate = accepted / drafted
        self.acceptance = ACCEPTANCE_DECAY * self.acceptance + (1 - ACCEPTANCE_DECAY) * rate
        proposed = tau if full else tau - self.tau_step
        if self.acceptance < self.target_acceptance:
            proposed = tau + self.tau_step
        return min(1.0, max(0.0, TAU_DECAY * tau + (1 - TAU_DECAY) * proposed))
