"""The speedup a profile must keep: asked for, or what it once had less a tolerance.

What it once had is in the profile, as its search measured it, or in the document of an earlier
`skipopt check --json`, which measured it on the very prompts that a check looks at. Knows nothing
of how either was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from skipopt.bench.provenance import differences
from skipopt.errors import SkipoptError, UsageError
from skipopt.profile import Profile

DECISIVE = ("device", "dtype", "threads", "runtime", "torch")


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least acceptable speedup, why it is that, and the stored median if there is one."""

    value: float
    reason: str
    stored: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A speedup of before, and where it was measured; None for what is not known."""

    speedup: float | None
    environment: Mapping[str, Any] | None

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """What the profile's search measured."""
        return cls(
            profile.measured.speedup.median if profile.measured else None,
            profile.environment.model_dump() if profile.environment else None,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """From the document of `check --json`, or from a profile.

        Raises:
            SkipoptError: it is neither.
        """
        if path.suffix != ".json":
            return cls.of(Profile.load(path))
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            speedup, environment = document["speedup"], document["environment"]
            median = None if speedup is None else float(speedup["median"])
            return cls(median, {key: environment[key] for key in DECISIVE})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SkipoptError(
                f"{path} is no baseline ({type(error).__name__}: {error})",
                hint="make one with `skipopt check --json > baseline.json`, or give a profile",
            ) from None


def choose_threshold(
    baseline: Baseline,
    environment: Mapping[str, Any],
    min_speedup: float = 1.0,
    tolerance: float = 0.05,
) -> Threshold:
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
    stored = baseline.speedup
    if stored is None:
        return Threshold(min_speedup, f"{asked}; no measured speedup is stored")
    if unlike := _differences(baseline, environment):
        return Threshold(
            min_speedup, f"{asked}; the stored speedup is from elsewhere: {unlike}", stored
        )
    kept = stored * (1 - tolerance)
    if kept <= min_speedup:
        return Threshold(min_speedup, asked, stored)
    return Threshold(kept, f"stored speedup {stored:g} less {100 * tolerance:g} %", stored)


def _differences(baseline: Baseline, environment: Mapping[str, Any]) -> str:
    """What of the stored environment is not as it is here, in words; empty where nothing is."""
    if baseline.environment is None:
        return "no environment is stored with it"
    return differences(baseline.environment, {key: environment[key] for key in DECISIVE})
