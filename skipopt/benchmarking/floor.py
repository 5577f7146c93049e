"""The speedup a profile must keep: asked for, or what it once had less a tolerance.

Knows nothing of how either was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.profile import Profile

DECISIVE = ("device", "dtype", "threads", "runtime", "torch")


@dataclass(frozen=True, slots=True)
class Floor:
    """The least acceptable speedup, why it is that, and the stored median if there is one."""

    value: float
    reason: str
    stored: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def choose_floor(
    baseline: Profile,
    environment: Mapping[str, Any],
    min_speedup: float = 1.0,
    tolerance: float = 0.05,
) -> Floor:
    """The higher of `min_speedup` and the baseline's measured median less `tolerance`.

    A speedup measured on another device, or with another dtype, runtime, thread count or torch
    version, says nothing about this machine: only `min_speedup` counts then.

    Args:
        environment: of this process, as `environment_record` gives it.
        tolerance: share of the stored speedup that may be lost, 0.05 for 5 %.

    Raises:
        UsageError: min_speedup ≤ 0, or tolerance outside [0, 1).
    """
    if min_speedup <= 0:
        raise UsageError(f"min-speedup must be above 0, not {min_speedup:g}")
    if not 0 <= tolerance < 1:
        raise UsageError(
            f"tolerance must lie in [0, 1), not {tolerance:g}", hint="write 5% or 0.05"
        )
    asked = f"min-speedup {min_speedup:g}"
    if baseline.measured is None:
        return Floor(min_speedup, f"{asked}; no measured speedup is stored")
    stored = baseline.measured.speedup.median
    if differences := _differences(baseline, environment):
        return Floor(
            min_speedup, f"{asked}; the stored speedup is from elsewhere: {differences}", stored
        )
    kept = stored * (1 - tolerance)
    if kept <= min_speedup:
        return Floor(min_speedup, asked, stored)
    return Floor(kept, f"stored speedup {stored:g} less {100 * tolerance:g} %", stored)


def _differences(baseline: Profile, environment: Mapping[str, Any]) -> str:
    """What of the stored environment is not as it is here, in words; empty where nothing is."""
    if baseline.environment is None:
        return "no environment is stored with it"
    stored = baseline.environment.model_dump()
    differing = [key for key in DECISIVE if stored[key] != environment[key]]
    return "; ".join(f"{k} was {stored[k]}, is {environment[k]}" for k in differing)
