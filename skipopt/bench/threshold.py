"""The speedup that a profile must keep: the one asked for, or its baseline minus a tolerance.

The baseline is the speedup that the profile says to expect on other text, or the one in the
document of an earlier `skipopt check --json`, which was measured on the prompts of the check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from skipopt.bench.provenance import differences
from skipopt.decoding.api import load_profile
from skipopt.errors import SkipoptError, UsageError
from skipopt.profile import Profile

DECISIVE = ("device", "dtype", "threads", "runtime", "torch")  # for a speedup


@dataclass(frozen=True, slots=True)
class Threshold:
    """The lowest acceptable speedup, why it is that, and the baseline's median if there is one."""

    value: float
    reason: str
    baseline: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The key `baseline` of `check --json`; the value stands under `floor`."""
        return {"speedup": self.baseline, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier end-to-end speedup, and the environment it was measured in.

    None for what is not known.
    """

    speedup: float | None
    environment: Mapping[str, Any] | None

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """What the profile says to expect; without that, what its search measured."""
        measured, expected = profile.measured, profile.expected
        end_to_end = measured.end_to_end.median if measured and measured.end_to_end else None
        return cls(
            expected.speedup if expected else end_to_end,
            profile.environment.model_dump() if profile.environment else None,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """From the document of `check --json`, or from a profile.

        Raises:
            SkipoptError: it cannot be read, or is neither.
        """
        if path.suffix != ".json":
            return cls.of(load_profile(path))
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            speedup, environment = document["end_to_end"], document["environment"]
            median = None if speedup is None else float(speedup["median"])
            return cls(median, {key: environment[key] for key in DECISIVE})
        except OSError as error:
            raise SkipoptError(
                f"cannot read {str(path)!r}: {error.strerror}", hint="check the path"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise SkipoptError(
                f"{path} is not a baseline ({type(error).__name__}: {error})",
                hint="make one with `skipopt check --json > baseline.json`, or give a profile",
            ) from None


def choose_threshold(
    baseline: Baseline,
    environment: Mapping[str, Any],
    min_speedup: float = 1.0,
    tolerance: float = 0.05,
) -> Threshold:
    """The higher of `min_speedup` and the baseline's median minus `tolerance`.

    A speedup that was measured on another device, or with another dtype, runtime, number of
    threads or torch version, does not apply to this machine: then only `min_speedup` counts.

    Args:
        environment: of this process, as `environment_of` returns it.
        tolerance: share of the baseline that may be lost, 0.05 for 5 %.

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
    before = baseline.speedup
    if before is None:
        return Threshold(min_speedup, f"{asked}; the baseline has no measured end-to-end speedup")
    if differing := _differences(baseline, environment):
        reason = f"{asked}; the baseline was measured elsewhere: {differing}"
        return Threshold(min_speedup, reason, before)
    kept = before * (1 - tolerance)
    if kept <= min_speedup:
        return Threshold(min_speedup, asked, before)
    return Threshold(kept, f"baseline speedup {before:g} minus {100 * tolerance:g} %", before)


def _differences(baseline: Baseline, environment: Mapping[str, Any]) -> str:
    """How the baseline's environment differs from this one, in words; empty where it does not."""
    if baseline.environment is None:
        return "it has no environment"
    return differences(baseline.environment, {key: environment[key] for key in DECISIVE})
