"""The `reason` of a profile that is off: why speculation does not pay, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.cost_model.prediction import Prediction
    from skipopt.storage.base import Trial
    from skipopt.study.validation import Validated


def only_repetition(costs: Costs) -> str:
    """No text can be scored: any draft guesses a text that repeats itself."""
    return (
        "every text that the model writes after these prompts only repeats itself, so "
        "no acceptance rate can be measured; a draft step costs c = "
        f"{costs.overhead / costs.plain:.2f} at least, verification v(2) = "
        f"{costs.verify[1] / costs.plain:.2f}"
    )


def no_predicted_gain(best: Trial, copies: Prediction, costs: Costs) -> str:
    """Neither the best draft nor copies can be faster than plain decoding."""
    assert best.prediction is not None
    return (
        f"no draft is predicted to be faster: the best reaches {best.prediction.speedup:.2f} ("
        f"{_figures(best, best.prediction.acceptance_rate, costs)}), and copies "
        f"{copies.speedup:.2f}"
    )


def no_measured_gain(winner: Validated, trial: Trial, costs: Costs) -> str | None:
    """The winner is not surely faster than plain decoding, or not lossless; else None."""
    if winner.lossless == "failed":
        return "the text differed from that of plain decoding"
    expected, measured = winner.expected.interval, winner.end_to_end
    if expected.low > 1.0:
        return None
    return (
        f"measured speedup {measured.median:.2f} ({measured.low:.2f} to {measured.high:.2f}) end "
        f"to end; on other text {expected.median:.2f} ({expected.low:.2f} to {expected.high:.2f}) "
        "is expected, not significantly above 1: "
        f"{_figures(trial, winner.acceptance_rate or 0.0, costs)}"
    )


def interrupted(best: Trial) -> str | None:
    """The search was interrupted before it had found a draft that pays; else None."""
    predicted = best.prediction.speedup if best.prediction else 0.0
    if (best.mask.skipped or best.draft_config) and predicted > 1:
        return None
    return f"interrupted before a draft was found that pays (predicted {predicted:.2f})"


def _figures(trial: Trial, acceptance_rate: float, costs: Costs) -> str:
    """Acceptance rate, draft cost and verification cost, in plain steps."""
    assert trial.prediction is not None
    gamma, tau = trial.prediction.gamma, trial.prediction.tau
    return (
        f"acceptance rate {acceptance_rate:.2f}, draft cost c = "
        f"{costs.draft_step(trial.mask, tau) / costs.plain:.2f}, "
        f"verification cost v({gamma + 1}) = {costs.verify[gamma] / costs.plain:.2f}"
    )
