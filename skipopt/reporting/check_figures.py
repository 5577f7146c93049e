"""The figures of a `check` under names that stay the same: for JUnit, charts and histories."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.measurement import metrics

if TYPE_CHECKING:
    from skipopt.measurement.regression_gate import CheckResult
    from skipopt.stats import Interval

SPEEDUP, SHARE, SPEED = "×", "share", "tokens/s"


@dataclass(frozen=True, slots=True)
class NamedFigure:
    """One measured number; more is better.

    Attributes:
        low, high: ends of its 95 % interval; None where it has none.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        """`1.390 × (1.350–1.430)`."""
        ends = "" if self.low is None else f" ({self.low:.3f}–{self.high:.3f})"
        return f"{self.value:.3f} {self.unit}{ends}"


def check_figures(result: CheckResult) -> list[NamedFigure]:
    """What was measured, in the order of its importance; what was not is left out."""
    whole, first = result.end_to_end, result.first_text
    speedups = {
        "end to end": whole.whole if whole else None,
        "decoding": result.speedup,
        "first text": first.whole if first else None,
        "kept of baseline": result.kept.answer.ratio if result.kept else None,
    }
    found = [_of_interval(name, each) for name, each in speedups.items() if each is not None]
    if result.acceptance_rate is not None:
        found.append(NamedFigure("acceptance rate", result.acceptance_rate, SHARE))
    return found + _speeds(result)


def _of_interval(name: str, found: Interval) -> NamedFigure:
    return NamedFigure(name, found.median, SPEEDUP, found.low, found.high)


def _speeds(result: CheckResult) -> list[NamedFigure]:
    """Tokens per second of decoding alone, of each runner that was timed."""
    runners = dict.fromkeys(sample.runner for sample in result.samples)
    speeds = {
        name: metrics.tokens_per_second(metrics.samples_of(result.samples, name))
        for name in runners
    }
    return [
        NamedFigure(f"decoding, {name}", speed, SPEED)
        for name, speed in speeds.items()
        if math.isfinite(speed)
    ]
