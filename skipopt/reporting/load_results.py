"""Read the JSON of `bench`, `check` and `run` back, as far as tables and figures need it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from skipopt.errors import SkipoptError
from skipopt.measurement.lossless import LosslessReport
from skipopt.measurement.methods_table import BenchResult, MethodResult
from skipopt.measurement.metrics import EndToEnd, SourceCounts
from skipopt.measurement.regression_gate import CheckResult
from skipopt.measurement.speed_verdict import Answer, Kept, Verdict
from skipopt.measurement.threshold import Subject, Threshold
from skipopt.measurement.workload import Workload
from skipopt.sampling import SamplingOptions
from skipopt.stats import Interval

Document = dict[str, Any]
Kind = Literal["bench", "check", "run"]
Result = TypeVar("Result")


def read_document(path: Path) -> Document:
    """The JSON of a file, as `bench`, `check` and `run` write it.

    Raises:
        SkipoptError: it is not a JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _other_file(path, str(error)) from None
    if not isinstance(document, dict):
        raise _other_file(path, "it is no JSON object")
    return document


def kind_of(document: Document) -> Kind:
    """Which command wrote it; `bench` where nothing else fits."""
    if "verdict" in document:
        return "check"
    return "run" if "tokens" in document and "methods" not in document else "bench"


def load_bench(path: Path) -> tuple[Document, BenchResult]:
    """(document, result) of a file that `bench` wrote; texts and samples stay empty.

    Raises:
        SkipoptError: the file is not a result of `bench`.
    """
    return _load(path, _result)


def load_check(path: Path) -> tuple[Document, CheckResult]:
    """(document, result) of a file that `check --json` wrote; without samples.

    Raises:
        SkipoptError: the file is not a result of `check`.
    """
    return _load(path, _check)


def load_run(path: Path) -> tuple[Document, RunResult]:
    """(document, result) of a file that `run --json` wrote.

    Raises:
        SkipoptError: the file is not a result of `run`.
    """
    return _load(path, _run)


def _load(path: Path, make: Callable[[Mapping[str, Any]], Result]) -> tuple[Document, Result]:
    document = read_document(path)
    try:
        return document, make(document)
    except KeyError as error:
        raise _other_file(path, f"it has no {error}") from None
    except (TypeError, AttributeError, ValueError):
        raise _other_file(path, "its values have other forms") from None


def _other_file(path: Path, reason: str) -> SkipoptError:
    return SkipoptError(
        f"{path} is not a result of `skipopt bench`, `check` or `run`: {reason}",
        hint="make one with `skipopt bench -o FILE.json` or `skipopt check --json > FILE.json`",
    )


@dataclass(frozen=True, slots=True)
class RunResult:
    """What `run --json` tells of a text, as far as it is shown.

    Attributes:
        compared: the speedup of decoding, with the least and the largest pair; None without
            `--compare`.
        end_to_end: the speedup of the whole text.
    """

    method: str
    new_tokens: int
    tokens_per_second: float
    seconds: float
    prefill_seconds: float
    acceptance_rate: float | None
    mean_acceptance_length: float
    acceptance_by_position: tuple[float, ...]
    stop_reason: str | None
    compared: Interval | None
    end_to_end: float | None


def _run(document: Mapping[str, Any]) -> RunResult:
    compared = document.get("compare") or {}
    pairs = compared.get("pair_ratios") or ()
    speedup = Interval(compared["speedup"], min(pairs), max(pairs)) if pairs else None
    total = _interval(compared.get("end_to_end"))
    names = [field.name for field in fields(RunResult) if field.name in document]
    values = {name: document[name] for name in names if name != "end_to_end"}
    positions = tuple(map(float, document["acceptance_by_position"]))
    return RunResult(
        **values | {"acceptance_by_position": positions},
        compared=speedup,
        end_to_end=total.median if total else None,
    )


def _check(document: Mapping[str, Any]) -> CheckResult:
    prompts, baseline = document["prompts"], document["baseline"]
    return CheckResult(
        verdict=_verdict(document["verdict"]),
        reason=document["reason"],
        threshold=Threshold(document["floor"], baseline["reason"], baseline["speedup"]),
        environment=document["environment"],
        subject=Subject(
            document["model"], prompts["hash"], prompts["count"], document["max_new_tokens"]
        ),
        speedup=_interval(document["speedup"]),
        end_to_end=_end_to_end(document, "end_to_end"),
        first_text=_end_to_end(document, "first_text"),
        lossless=_lossless(document["lossless"]),
        acceptance_rate=document["acceptance_rate"],
        kept=_kept(document["kept"]),
    )


def _verdict(text: str) -> Verdict:
    if text not in get_args(Verdict):
        raise ValueError(text)
    return text  # type: ignore[return-value]


def _kept(value: Mapping[str, Any] | None) -> Kept | None:
    if value is None:
        return None
    answer = Answer(Interval(**value["ratio"]), value["least"])
    return Kept(answer, value["prompts"], value["plain_seconds_ratio"], value["errors"])


def _result(document: Mapping[str, Any]) -> BenchResult:
    prompts = document["prompts"]
    # Tables only count texts.
    texts: tuple[tuple[int, ...], ...] = ((),) * prompts["num_timed"]
    # Earlier results have no categories, or say of how many prompts each is only.
    counts: Mapping[str, int] = prompts.get("categories", {})
    counted = [name for name, count in counts.items() for _ in range(count)]
    work = Workload(
        texts,
        texts,
        prompts["count"],
        prompts["repetitive"],
        prompts["repetitive_tokens"],
        tuple(prompts.get("category_of", counted)),
    )
    return BenchResult(
        environment=document["environment"],
        model=document["model"],
        prompts_hash=prompts["hash"],
        workload=work,
        max_new_tokens=document["max_new_tokens"],
        repeats=document["repeats"],
        methods=tuple(map(_method, document["methods"])),
        sampling=SamplingOptions(**document["sampling"]),
    )


def _method(row: Mapping[str, Any]) -> MethodResult:
    plain = ("tokens_per_second", "prefill_seconds", "acceptance_rate", "mean_acceptance_length")
    return MethodResult(
        name=row["name"],
        settings=row["settings"],
        speedup=_interval(row["speedup"]),
        end_to_end=_end_to_end(row, "end_to_end"),
        first_text=_end_to_end(row, "first_text"),
        speedup_by_category=tuple(
            (name, Interval(**value)) for name, value in row.get("speedup_by_category", {}).items()
        ),
        drafts_by_source={
            name: SourceCounts(**each) for name, each in row.get("drafts_by_source", {}).items()
        },
        speedup_vs_hf=_interval(row["speedup_vs_hf"]),
        lossless=_lossless(row["lossless"]),
        acceptance_by_position=tuple(row.get("acceptance_by_position", ())),
        seconds_by_phase=row.get("seconds_by_phase", {}),
        guarantee=row["guarantee"],
        error=row["error"],
        **{key: row[key] for key in plain},
    )


def _end_to_end(row: Mapping[str, Any], key: str) -> EndToEnd | None:
    """None where it was not measured."""
    whole = _interval(row.get(key))
    at = ((int(length), Interval(**each)) for length, each in row.get(f"{key}_at", {}).items())
    return None if whole is None else EndToEnd(whole, tuple(at))


def _interval(value: Mapping[str, float] | None) -> Interval | None:
    return None if value is None else Interval(**value)


def _lossless(value: Mapping[str, Any] | None) -> LosslessReport | None:
    if value is None:
        return None
    return LosslessReport(**{key: v for key, v in value.items() if key != "verdict"})
