"""The speedup that a profile must keep: the one asked for, or its baseline minus a tolerance.

The baseline is the document of an earlier `skipopt check --json`, whose texts are compared one by
one, or the speedup that the profile says to expect on other text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from skipopt.decoding.api import load_profile
from skipopt.errors import ProfileError, SkipoptError, UsageError
from skipopt.measurement.paired_texts import TextTimes, pair_times
from skipopt.measurement.provenance import differences, hash_of
from skipopt.measurement.speed_verdict import SpeedRule
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
    """The lowest acceptable speedup, and what of the baseline's must be kept.

    Attributes:
        value: the lowest acceptable speedup, whatever the baseline.
        reason: why it is that, and how the baseline is compared, or why it is not.
        baseline: the baseline's speedup; None if it has none.
        of_other_texts: whether `value` was found on other texts than those of this check.
        texts: the baseline's texts that are compared one by one; None if none are.
        tolerance: share of their speedup that may be lost.
    """

    value: float
    reason: str
    baseline: float | None = None
    of_other_texts: bool = False
    texts: TextTimes | None = None
    tolerance: float = 0.0

    @property
    def rule(self) -> SpeedRule:
        return SpeedRule(self.value, self.of_other_texts, self.texts, self.tolerance)

    def to_json(self) -> dict[str, Any]:
        """The key `baseline` of `check --json`; the value stands under `floor`."""
        return {
            "speedup": self.baseline,
            "reason": self.reason,
            "texts": None if self.texts is None else len(self.texts),
            "tolerance": self.tolerance,
        }


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


class _Sample(Section, extra="ignore"):
    method: str
    prompt: Annotated[int, Field(ge=0)]
    repeat: Annotated[int, Field(ge=0)]
    total_seconds: Annotated[float, Field(gt=0)]


class _CheckDocument(Section, extra="ignore"):
    """The keys of `check --json` that a baseline needs."""

    model: ModelSection
    prompts: _Prompts
    max_new_tokens: Annotated[int, Field(ge=1)]
    speedup: _Interval
    end_to_end: _Interval
    environment: EnvironmentSection
    against: None = None  # speedups over another profile are none over plain decoding
    texts: list[str] = Field(default_factory=list)
    samples: list[_Sample] = Field(default_factory=list)

    def text_times(self) -> TextTimes | None:
        """The times of each text; None in documents that do not name their texts."""
        times = [
            (s.method, s.prompt, s.repeat, s.total_seconds)
            for s in self.samples
            if s.prompt < len(self.texts)
        ]
        return pair_times(times, self.texts) or None


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier end-to-end speedup, and what it was measured on; None for what is not known.

    Attributes:
        fingerprint: of the model.
        prompts: as in `Subject`; None for a profile, which tells the speedup on other text.
        max_new_tokens: as in `Subject`; None for a profile.
        texts: times of its texts; None where they are not known, as for a profile.
    """

    speedup: float | None
    environment: Mapping[str, Any] | None
    fingerprint: str | None = None
    prompts: str | None = None
    max_new_tokens: int | None = None
    texts: TextTimes | None = None

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
            found.text_times(),
        )

    def check_subject(self, subject: Subject) -> None:
        """Do nothing if this is the baseline's model, and if texts are as long where known.

        Raises:
            SkipoptError: it was not; names the first difference.
        """
        parts = (
            ("another model", "model.fingerprint", self.fingerprint, subject.model["fingerprint"]),
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
    prompts: str | None = None,
) -> Threshold:
    """What must be kept: `min_speedup`, and the baseline's speedup minus `tolerance`.

    A baseline that was measured on another device, with another dtype, runtime, number of threads
    or torch version, or on other prompts, does not apply: then only `min_speedup` counts.

    Args:
        environment: of this process, as `environment_of` returns it.
        tolerance: share of the baseline that may be lost, 0.05 for 5 %.
        prompts: those of this check, as in `Subject`; None: not compared.

    Raises:
        UsageError: min_speedup ≤ 0, or tolerance outside [0, 1).
    """
    check_bounds(min_speedup, tolerance)
    asked = f"min-speedup {min_speedup:g}"
    before, lost = baseline.speedup, f"{100 * tolerance:g} %"
    if before is None:
        return Threshold(min_speedup, f"{asked}; the baseline has no measured end-to-end speedup")
    if differing := _differences(baseline, environment, prompts):
        return Threshold(min_speedup, f"{asked}; {differing}", before)
    if baseline.texts is not None:
        reason = f"{asked}; each of the baseline's texts is compared, minus {lost}"
        return Threshold(min_speedup, reason, before, texts=baseline.texts, tolerance=tolerance)
    kept = before * (1 - tolerance)
    without = "which has no texts to compare one by one"
    if kept <= min_speedup:
        return Threshold(
            min_speedup,
            f"{asked}, above the baseline's {before:g} minus {lost}, {without}",
            before,
        )
    reason = f"baseline speedup {before:g} minus {lost}, {without}"
    return Threshold(kept, reason, before, of_other_texts=baseline.prompts is None)


def threshold_against(min_speedup: float = 1.0, tolerance: float = 0.05) -> Threshold:
    """The least speedup over another profile: `min_speedup` minus `tolerance`.

    Raises:
        UsageError: as `choose_threshold`.
    """
    check_bounds(min_speedup, tolerance)
    reason = f"{min_speedup:g} times the speed of the other profile, minus {100 * tolerance:g} %"
    return Threshold(min_speedup * (1 - tolerance), reason)


def check_bounds(min_speedup: float, tolerance: float) -> None:
    """Raise UsageError unless min_speedup > 0 and tolerance lies in [0, 1)."""
    if min_speedup <= 0:
        raise UsageError(f"min-speedup must be above 0, not {min_speedup:g}")
    if not 0 <= tolerance < 1:
        raise UsageError(
            f"tolerance must lie in [0, 1), not {tolerance:g}", hint="write 5% or 0.05"
        )


def _differences(baseline: Baseline, environment: Mapping[str, Any], prompts: str | None) -> str:
    """Why the baseline does not apply here, in words; empty where it does."""
    if baseline.environment is None:
        return "the baseline was measured elsewhere: it has no environment"
    here = {key: environment[key] for key in DECISIVE}
    if differing := differences(baseline.environment, here):
        return f"the baseline was measured elsewhere: {differing}"
    if prompts is not None and baseline.prompts not in (None, prompts):
        return f"the baseline is of other prompts: its prompts.hash is {baseline.prompts}"
    return ""
