"""A history of checks: one line of JSON for each, oldest first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from skipopt.errors import SkipoptError
from skipopt.files import append_atomically
from skipopt.reporting.check_figures import check_figures
from skipopt.stats import Interval

if TYPE_CHECKING:
    from skipopt.measurement.regression_gate import CheckResult

SCHEMA_KEY, SCHEMA = "skipopt_check_history", 1


@dataclass(frozen=True, slots=True)
class PastCheck:
    """One line of a history.

    Attributes:
        time: when the check ended, in UTC, as ISO 8601 writes it.
        speedup: end to end; None where nothing was timed.
        commit: what was checked, where the environment tells it.
    """

    time: str
    verdict: str
    reason: str
    model: str
    profile: str
    floor: float
    speedup: Interval | None
    commit: str | None = None

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """From a line of the file.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        if line[SCHEMA_KEY] != SCHEMA:
            raise ValueError(f"its version is {line[SCHEMA_KEY]}")
        found = line["figures"].get("end to end")
        interval = found and Interval(found["value"], found["low"], found["high"])
        words = {key: str(line[key]) for key in ("time", "verdict", "reason", "model", "profile")}
        return cls(**words, floor=float(line["floor"]), speedup=interval, commit=line["commit"])


def append_check(path: Path, result: CheckResult, profile: str, commit: str | None = None) -> None:
    """Append one line, atomically for others that append.

    Raises:
        OutputError: the file cannot be written.
    """
    append_atomically(path, history_line(result, profile, commit, datetime.now(UTC)))


def history_line(result: CheckResult, profile: str, commit: str | None, now: datetime) -> str:
    """The check as one line of JSON, with its end."""
    figures = {
        each.name: {"value": each.value, "unit": each.unit, "low": each.low, "high": each.high}
        for each in check_figures(result)
    }
    line = {
        SCHEMA_KEY: SCHEMA,
        "time": now.isoformat(timespec="seconds"),
        "verdict": result.verdict,
        "reason": result.reason,
        "model": str(result.subject.model["id"]),
        "fingerprint": str(result.subject.model["fingerprint"]),
        "profile": profile,
        "commit": commit,
        "floor": result.threshold.value,
        "lossless": result.lossless and result.lossless.verdict,
        "figures": figures,
        "environment": dict(result.environment),
    }
    return f"{json.dumps(line, ensure_ascii=False, default=str)}\n"


@dataclass(frozen=True, slots=True)
class History:
    """The checks of a file, oldest first, and the number of lines that are damaged."""

    checks: tuple[PastCheck, ...]
    damaged: int


def read_history(path: Path) -> History:
    """The checks of a file that `check --history` wrote; damaged lines are counted.

    Raises:
        SkipoptError: the file cannot be read, or holds no check.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise SkipoptError(
            f"cannot read {str(path)!r}: {error.strerror}", hint="check the path"
        ) from None
    found = [_read(line) for line in lines if line.strip()]
    checks = tuple(each for each in found if each is not None)
    if not checks:
        raise SkipoptError(
            f"{path} holds no check", hint="make one with `skipopt check --history FILE`"
        )
    return History(checks, len(found) - len(checks))


def _read(line: str) -> PastCheck | None:
    try:
        return PastCheck.of(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def names_of(checks: Iterable[PastCheck]) -> dict[tuple[str, str], list[PastCheck]]:
    """Checks by model and profile, in the order of their first appearance."""
    found: dict[tuple[str, str], list[PastCheck]] = {}
    for each in checks:
        found.setdefault((each.model, each.profile), []).append(each)
    return found
