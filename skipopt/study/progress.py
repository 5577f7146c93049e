"""How far a search is: its clock, its phase and the best trial so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.storage.base import Trial

Phase = Literal["calibrate", "costs", "search", "validate"]


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a search.

    Attributes:
        phase: `calibrate` (generate texts), `costs` (time drafting and verification), `search`
            (score masks) or `validate` (rescore the best masks and decode with them).
        trials: scored masks.
        best_value: of these, by the objective.
        seconds: since the search began.
        seconds_left: until its time limit; None without one.
    """

    phase: Phase
    trials: int
    best_value: float | None
    best_mask: SkipMask | None
    seconds: float
    seconds_left: float | None


OnProgress = Callable[[Progress], None]


class ProgressReporter:
    """Keeps the time and the best trial of one search, and reports them to a callback.

    Args:
        time_limit: seconds that the search may take; None: no limit.
        on_progress: called with each report.
        clock: seconds.

    Attributes:
        trials: number of scored masks.
        best: the trial with the highest value.
    """

    def __init__(
        self,
        time_limit: float | None = None,
        on_progress: OnProgress = lambda progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trials = 0
        self.best: Trial | None = None
        self._phase: Phase = "calibrate"
        self._time_limit = time_limit
        self._on_progress = on_progress
        self._clock = clock
        self._start = clock()

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return self._clock() - self._start

    def is_past(self, share: float = 1.0) -> bool:
        """Whether this share of the time limit is over; never without a limit."""
        return self._time_limit is not None and self.seconds > share * self._time_limit

    def enter(self, phase: Phase) -> None:
        """Begin the next phase, and report it."""
        self._phase = phase
        self.report()

    def add_trial(self, trial: Trial) -> None:
        """Count a finished trial, and report it."""
        self.trials += 1
        if self.best is None or trial.value > self.best.value:
            self.best = trial
        self.report()

    def report(self) -> None:
        """Call the callback with the present state."""
        best, seconds, limit = self.best, self.seconds, self._time_limit
        self._on_progress(
            Progress(
                self._phase,
                self.trials,
                best.value if best else None,
                best.mask if best else None,
                seconds,
                None if limit is None else max(0.0, limit - seconds),
            )
        )
