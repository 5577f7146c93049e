"""The speedup that a profile must keep: the one asked for, or its baseline minus a tolerance.

The baseline is the speedup that the profile says to expect on other text, or the one in the
document of an earlier `skipopt check --json`, which was measured on the prompts of the check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from skipopt.bench.provenance import differences, hash_of
from skipopt.decoding.api import load_profile
from skipopt.errors import ProfileError, SkipoptError, UsageError
from skipopt.profile import EnvironmentSection, Profile
from skipopt.profile.model_identity import model_facts
from skipopt.profile.sections import ModelSection, Section
from skipopt.profile.validation_errors import validate

if TYPE_CHECKING:
    from skipopt.models.target import Target

MAKE_ONE = "make one with `skipopt check --json > baseline.json`, or give a profile"
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
class Subject:
    """What a check decodes, and so what its speedup is of.

    Attributes:
        model: as in the section `model` of a profile.
        prompts: `sha256:…` of the token ids of all prompts.
        num_prompts: their number.
        max_new_tokens: of each text.
    """

    model: Mapping[str, Any]
    prompts: str
    num_prompts: int
    max_new_tokens: int

    @classmethod
    def of(cls, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Self:
        return cls(model_facts(target), hash_of(prompts), len(prompts), max_new_tokens)

    def to_json(self) -> dict[str, Any]:
        """The keys of `check --json` that a later check compares."""
        prompts = {"hash": self.prompts, "count": self.num_prompts}
        return {
            "model": dict(self.model),
            "prompts": prompts,
            "max_new_tokens": self.max_new_tokens,
        }


class _Interval(Section):
    median: Annotated[float, Field(gt=0)]
    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]


class _Prompts(Section):
    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]+$")]
    count: Annotated[int, Field(ge=1)]


class _CheckDocument(Section, extra="ignore"):
    """The keys of `check --json` that a baseline needs."""

    model: ModelSection
    prompts: _Prompts
    max_new_tokens: Annotated[int, Field(ge=1)]
    speedup: _Interval
    end_to_end: _Interval
    environment: EnvironmentSection


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier end-to-end speedup, and what it was measured on; None for what is not known.

    Attributes:
        fingerprint: of the model.
        prompts: as in `Subject`; None for a profile, which tells the speedup on other text.
        max_new_tokens: as in `Subject`; None for a profile.
    """

    speedup: float | None
    environment: Mapping[str, Any] | None
    fingerprint: str | None = None
    prompts: str | None = None
    max_new_tokens: int | None = None

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """What the profile says to expect; without that, what its search measured."""
        measured, expected = profile.measured, profile.expected
        end_to_end = measured.end_to_end.median if measured and measured.end_to_end else None
        return cls(
            expected.speedup if expected else end_to_end,
            profile.environment.model_dump() if profile.environment else None,
            profile.model.fingerprint,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """From the document of `check --json`, or from a profile.

        Raises:
            SkipoptError: it cannot be read, is neither, or has no speedup above 0; names the key.
        """
        if path.suffix == ".json":
            return cls._of_check(_read(path), f"{path} is not a baseline")
        found = cls.of(load_profile(path))
        if found.speedup is None:
            raise SkipoptError(
                f"{path} is not a baseline: expected is missing, and so is measured.end_to_end",
                hint=MAKE_ONE,
            )
        return found

    @classmethod
    def _of_check(cls, document: Any, source: str) -> Self:
        try:
            found = validate(_CheckDocument, document, source)
        except ProfileError as error:
            raise SkipoptError(str(error), hint=MAKE_ONE) from None
        environment = {key: getattr(found.environment, key) for key in DECISIVE}
        return cls(
            found.end_to_end.median,
            environment,
            found.model.fingerprint,
            found.prompts.hash,
            found.max_new_tokens,
        )

    def check_subject(self, subject: Subject) -> None:
        """Do nothing if this is the baseline's model, and if these are its texts where known.

        Raises:
            SkipoptError: it was not; names the first difference.
        """
        parts = (
            ("another model", "model.fingerprint", self.fingerprint, subject.model["fingerprint"]),
            ("other prompts", "prompts.hash", self.prompts, subject.prompts),
            ("other lengths", "max_new_tokens", self.max_new_tokens, subject.max_new_tokens),
        )
        for what, key, before, now in parts:
            if before is not None and before != now:
                raise SkipoptError(
                    f"the baseline is of {what}: its {key} is {before}, here it is {now}",
                    hint=MAKE_ONE,
                )


def _read(path: Path) -> Any:
    """The JSON document in a file; NaN and infinity are values that are refused later."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SkipoptError(
            f"cannot read {str(path)!r}: {error.strerror}", hint="check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise SkipoptError(f"{path} is not a baseline: {error}", hint=MAKE_ONE) from None


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
