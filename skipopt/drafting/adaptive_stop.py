"""A stop threshold that follows the acceptance it leads to.

Knows nothing of models, or of how sure a draft is.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.errors import UsageError

REMEMBERED = 0.5  # β1, of the acceptance rate
KEPT = 0.9  # β2, of the threshold


@dataclass(slots=True)
class AdaptiveStop:
    """The adaptive draft-exiting of Draft & Verify (arXiv 2309.08168).

    AR ← β1·AR + (1 − β1)·accepted/drafted, from AR = 0; then with τ' = τ + ε where AR is below
    the rate that is wanted, τ' = τ where the draft went to its full length, else τ' = τ − ε:
    τ ← β2·τ + (1 − β2)·τ'. A round thus moves τ by a tenth of ε. Unlike the original, which
    drifts, τ stays in [0, 1].

    Attributes:
        target_acceptance: the acceptance rate that τ is steered to.
        tau_step: ε.
        acceptance: AR.

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
            full: the draft went to its full length, so that a lower τ would not lengthen it.
        """
        if not drafted:
            return tau
        share = accepted / drafted
        self.acceptance = REMEMBERED * self.acceptance + (1 - REMEMBERED) * share
        wanted = tau if full else tau - self.tau_step
        if self.acceptance < self.target_acceptance:
            wanted = tau + self.tau_step
        return min(1.0, max(0.0, KEPT * tau + (1 - KEPT) * wanted))
