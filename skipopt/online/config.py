"""Every constant of the speculation gate and of online tuning, in one value."""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.errors import UsageError
from skipopt.option_values import convert_numbers
from skipopt.sampling import check_seed


@dataclass(frozen=True, slots=True)
class OnlineConfig:
    """Settings of `SpeculationGate` and `OnlineTuner`.

    Attributes:
        overhead: largest share of the decoding time that tuning may take, in (0, 1].
        seed: of the candidates.
        score_tokens: tokens that both sides of a comparison are scored on in one forward.
        max_gamma: largest γ of any candidate.
        tau_step: difference in τ between neighboring candidates.
        win_errors: standard errors by which a candidate must win to be adopted.
        lose_errors: standard errors by which it must lose to be dropped at once.
        max_rounds: simulated rounds after which a candidate that has not won is dropped.
        rollback_rounds: drafted rounds after a switch before it is confirmed or rolled back.
        rollback_alpha: significance level at which a switch that made decoding slower is
            rolled back.
        suggest_every: every n-th candidate comes from Bayesian optimization, as in SWIFT.
        suggestion_seconds: expected time of one such suggestion, imports included.
        gate_rounds: drafted rounds before the gate decides.
        gate_errors: standard errors by which drafting must lose before it is paused.
        early_rounds, early_errors: the same of drafts that lose much, which are paused sooner.
        first_pause, longest_pause: plain rounds of the first pause, and of any.
        loss_share: tokens that trials after a pause may lose, as a share of all.
        losing_texts: texts in a row in which drafts lost, after which the next text does not
            shorten a pause.
        plain_every: rounds between two plain ones that measure the cost of a plain step.

    Raises:
        UsageError: an overhead outside (0, 1].
    """

    overhead: float = 0.01
    seed: int = 0
    score_tokens: int = 32
    max_gamma: int = 16
    tau_step: float = 0.1
    win_errors: float = 2.5
    lose_errors: float = 1.0
    max_rounds: int = 768
    rollback_rounds: int = 32
    rollback_alpha: float = 0.025
    suggest_every: int = 25
    suggestion_seconds: float = 1.0
    gate_rounds: int = 8
    gate_errors: float = 1.0
    early_rounds: int = 3
    early_errors: float = 3.0
    first_pause: int = 16
    longest_pause: int = 1024
    loss_share: float = 0.01
    losing_texts: int = 3
    plain_every: int = 48

    def __post_init__(self) -> None:
        convert_numbers(self)
        check_seed(self.seed)
        if not 0 < self.overhead <= 1:
            raise UsageError(
                f"the overhead must lie in (0, 1], not {self.overhead}", hint="try 0.01"
            )
