"""What the cells of tables show; missing: a dash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skipopt.reporting.intervals import UNDECIDED, called_undecided, whole_interval

if TYPE_CHECKING:
    from skipopt.measurement.lossless import LosslessReport
    from skipopt.measurement.metrics import EndToEnd
    from skipopt.stats import Interval

DASH = "–"


def number_cell(value: float | None, form: str) -> str:
    """The number in this format."""
    return DASH if value is None else format(value, form)


def interval_cell(found: Interval | None) -> str:
    """`1.39× (1.35–1.43)`, and below it `undecided` where it is that."""
    if found is None:
        return DASH
    words = whole_interval(found.median, found.low, found.high)
    return f"{words}\n{UNDECIDED}" if called_undecided(found.low, found.high) else words


def by_length(found: EndToEnd | None) -> str:
    """`32: 1.21×, 64: 1.30×`: speedups up to these numbers of new tokens."""
    if found is None or not found.at:
        return DASH
    return ", ".join(f"{length}: {interval.median:.2f}×" for length, interval in found.at)


def lossless_cell(found: LosslessReport | None) -> str:
    """`exact`, `within margin (2, 1e-05)`, `FAILED (1 of 32)`."""
    if found is None:
        return DASH
    if found.verdict == "failed":
        return f"FAILED ({found.failed} of {found.total})"
    if found.verdict == "within-margin":
        return f"within margin ({found.within_margin}, {found.margin:.1g})"
    return "exact"


def place(environment: Mapping[str, Any]) -> str:
    """`AMD EPYC, float32, prepacked, 2 threads`."""
    places = (environment.get(key) for key in ("device", "dtype", "runtime"))
    threads = environment.get("threads")
    shown = [str(place) for place in places if place]
    return ", ".join(shown + ([counted_threads(threads)] if threads else []))


def counted_threads(count: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread{'s' if count != 1 else ''}"
