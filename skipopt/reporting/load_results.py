"""Read the JSON of `bench` back, as far as tables and figures need it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skipopt.errors import SkipoptError
from skipopt.measurement.lossless import LosslessReport
from skipopt.measurement.methods_table import BenchResult, MethodResult
from skipopt.measurement.metrics import EndToEnd, SourceCounts
from skipopt.measurement.workload import Workload
from skipopt.sampling import SamplingOptions
from skipopt.stats import Interval


def load_bench(path: Path) -> tuple[dict[str, Any], BenchResult]:
    """(document, result) of a file that `bench` wrote; texts and samples stay empty.

    Raises:
        SkipoptError: the file is not a result of `bench`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        return document, _result(document)
    except (ValueError, RecursionError) as error:
        raise _other_file(path, str(error)) from None
    except KeyError as error:
        raise _other_file(path, f"it has no {error}") from None
    except (TypeError, AttributeError):
        raise _other_file(path, "its values have other forms") from None


def _other_file(path: Path, reason: str) -> SkipoptError:
    return SkipoptError(
        f"{path} is not a result of `skipopt bench`: {reason}",
        hint="make one with `skipopt bench -o FILE.json`",
    )


def _result(document: Mapping[str, Any]) -> BenchResult:
    prompts = document["prompts"]
    # Tables only count texts.
    texts: tuple[tuple[int, ...], ...] = ((),) * prompts["num_timed"]
    # Results of before there were categories have none.
    counts: Mapping[str, int] = prompts.get("categories", {})
    work = Workload(
        texts,
        texts,
        prompts["count"],
        prompts["repetitive"],
        prompts["repetitive_tokens"],
        tuple(name for name, count in counts.items() for _ in range(count)),
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
