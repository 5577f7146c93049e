"""How far a search is: its clock, its phase and the best trial so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.study.time_plan import Deadline, Phase, TimePlan

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.storage.base import Trial


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a search.

    Attributes:
        phase: `calibrate` (generate texts), `costs` (time drafting and verification, and try draft
            configurations without a mask), `search` (score masks) or `validate` (decode with the
            best of all).
        trials: scored masks.
        best_value: of these and of draft configurations, by the objective.
        best_mask: empty where a draft configuration alone is the best.
        seconds: since the search began.
        seconds_left: until it ends by its plan; None without a time limit.
    """

    phase: Phase
    trials: int
    best_value: float | None
    best_mask: SkipMask | None
    seconds: float
    seconds_left: float | None


OnProgress = Callable[[Progress], None]


class ProgressReporter:
    """Keeps the phase and the best trial of one search, and reports them to a callback.

    Args:
        plan: of the search; told which phase begins.
        on_progress: called with each report.

    Attributes:
        trials: number of scored masks.
        best: the trial with the highest value.
    """

    def __init__(self, plan: TimePlan, on_progress: OnProgress = lambda progress: None) -> None:
        self.trials = 0
        self.best: Trial | None = None
        self.plan = plan
        self._phase: Phase = "calibrate"
        self._on_progress = on_progress

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return self.plan.seconds

    def enter(self, phase: Phase) -> Deadline:
        """Begin the next phase, and report it; its deadline."""
        self._phase = phase
        deadline = self.plan.begin(phase)
        self.report()
        return deadline

    def add_trial(self, trial: Trial) -> None:
        """Count a finished trial, and report it."""
        self.trials += 1
        self.consider(trial)

    def consider(self, trial: Trial) -> None:
        """Keep the trial if it is the best so far, without counting it, and report."""
        if self.best is None or trial.value > self.best.value:
            self.best = trial
        self.report()

    def report(self) -> None:
        """Call the callback with the present state."""
        best = self.best
        self._on_progress(
            Progress(
                self._phase,
                self.trials,
                best.value if best else None,
                best.mask if best else None,
                self.plan.seconds,
                self.plan.seconds_left,
            )
        )
