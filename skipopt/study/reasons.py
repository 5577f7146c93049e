"""Why speculation does not pay, told in numbers. Knows nothing of how they were come by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipopt.cost_model.costs import Costs
    from skipopt.storage.base import Trial
    from skipopt.study.calibration import CalibrationTexts
    from skipopt.study.validation import Validated


def no_texts(costs: Costs) -> str:
    """Why nothing can be said of drafts: a loop can be guessed by anything."""
    return (
        "every text that the model writes after the calibration prompts only repeats itself, so "
        f"no acceptance rate can be measured; a draft step costs c = "
        f"{costs.overhead / costs.plain:.2f} at least, verification v(2) = "
        f"{costs.verify[1] / costs.plain:.2f}"
    )


def no_promise(best: Trial, scored: CalibrationTexts, costs: Costs) -> str:
    """Why it is not worth while to decode with the best mask, in numbers."""
    assert best.prediction is not None
    return (
        f"no mask promises a gain: the best is predicted {best.prediction.speedup:.2f} ("
        f"{_law(best, best.prediction.acceptance_rate, costs)}), and prompt lookup yields "
        f"{scored.copied:.2f} tokens a round"
    )


def _law(trial: Trial, rate: float, costs: Costs) -> str:
    """Acceptance rate, draft cost and verification cost of a mask."""
    assert trial.prediction is not None
    gamma, tau = trial.prediction.gamma, trial.prediction.tau
    return (
        f"acceptance rate {rate:.2f}, draft cost c = "
        f"{costs.draft_step(trial.mask, tau) / costs.plain:.2f}, "
        f"verify cost v({gamma + 1}) = {costs.verify[gamma] / costs.plain:.2f}"
    )


def reason_against(winner: Validated, trial: Trial, costs: Costs) -> str | None:
    """Why speculation does not pay, in numbers; None where it does."""
    interval = winner.speedup
    if winner.lossless == "failed":
        return "the drafted text differed from plain decoding's"
    if interval.low > 1.0:
        return None
    return (
        f"measured speedup {interval.median:.2f} ({interval.low:.2f} to {interval.high:.2f}) is "
        f"not surely above 1: {_law(trial, winner.acceptance_rate or 0.0, costs)}"
    )
