"""The page of `benchmarks.search_promise`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.held_out import digits
from benchmarks.result_files import environment_lines
from skipopt.study.config import SearchConfig

Row = Mapping[str, Any]


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page of all searches."""
    rows = record["searches"]
    yield "# Searches: their time, and what they promise"
    yield ""
    yield from (f"- `{command}`" for command in record["commands"])
    yield ""
    yield from environment_lines(record["environment"])
    yield from commits(rows)
    yield ""
    yield from search_table(rows)
    yield from reasons(rows)
    yield ""
    yield from time_summary(rows)
    if any("held_out" in row for row in rows):
        yield ""
        yield from promise_summary(rows)
        yield ""
        yield from category_table(rows)
        yield ""
        yield from texts_note(rows)


def overrun(row: Row) -> float | None:
    """Relative to the limit; negative where the search ended early, None where it was refused."""
    return None if row["limit"] is None else row["seconds"] / row["limit"] - 1


def ratio(row: Row) -> float | None:
    """Median held-out speedup ÷ promised speedup; None without both."""
    if "held_out" not in row or row["expected"] is None:
        return None
    value: float = row["held_out"]["speedup"]["median"] / row["expected"]["speedup"]
    return value


def mean_ratio(row: Row) -> float | None:
    """The same with the geometric mean over held-out prompts, which `expected` estimates."""
    if "held_out" not in row or row["expected"] is None:
        return None
    value: float = row["held_out"]["mean"] / row["expected"]["speedup"]
    return value


def commits(rows: Sequence[Row]) -> Iterator[str]:
    """A list item where the searches are of several commits."""
    found = dict.fromkeys(row["commit"] for row in rows)
    if len(found) > 1:
        yield f"- commits of the searches: {', '.join(found)}"


def search_table(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| model | budget, s | seed | took, s | overrun | trials | answer | promised | held out "
        "| held out ÷ promised | text |"
    )
    yield "|---|--:|--:|--:|--:|--:|---|--:|--:|--:|---|"
    for row in rows:
        yield f"| {' | '.join([*search_cells(row), *held_out_cells(row)])} |"


def reasons(rows: Sequence[Row]) -> Iterator[str]:
    """Why searches say off, each reason once."""
    found = dict.fromkeys((row["model"], row["reason"]) for row in rows if row["answer"] == "off")
    if found:
        yield ""
    yield from (f"- {model} is off: {reason}" for model, reason in found)


def search_cells(row: Row) -> list[str]:
    late = overrun(row)
    return [
        row["model"],
        "none" if row["budget"] is None else f"{row['budget']:g}",
        str(row["seed"]),
        f"{row['seconds']:.1f}",
        "" if late is None else f"{late:+.1%}",
        str(row["trials"]),
        row["reason"] if row["answer"] == "refused" else row["answer"],
        promised(row),
    ]


def held_out_cells(row: Row) -> list[str]:
    """Empty where no held-out prompt was decoded."""
    if "held_out" not in row:
        return ["", "", ""]
    found, part = row["held_out"], ratio(row)
    return [digits(found["speedup"]), "" if part is None else f"{part:.2f}", found["lossless"]]


def promised(row: Row) -> str:
    """Empty for a profile that is off."""
    expected = row["expected"]
    if expected is None or row["answer"] == "off":
        return ""
    return digits({"median": expected["speedup"], **{k: expected[k] for k in ("low", "high")}})


def by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row)
    return found


def time_summary(rows: Sequence[Row]) -> Iterator[str]:
    """Overruns of each model."""
    yield "| model | searches | refused | off | median overrun | largest overrun | over by > 5 % |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for model, own in by_model(rows).items():
        late = [each for row in own if (each := overrun(row)) is not None]
        answers = [row["answer"] for row in own]
        counts = f"{len(own)} | {answers.count('refused')} | {answers.count('off')}"
        if late:
            more = f"{median(late):+.1%} | {max(late):+.1%} | {sum(x > 0.05 for x in late)}"
            yield f"| {model} | {counts} | {more} |"
        else:
            yield f"| {model} | {counts} | | | |"


def promise_summary(rows: Sequence[Row]) -> Iterator[str]:
    """Held-out ÷ promised speedups of each model."""
    yield (
        "| model | profiles | held out ÷ promised: median | minimum | the same of means: median "
        "| minimum | held out within the promised interval |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for model, own in by_model(rows).items():
        measured = [row for row in own if ratio(row) is not None]
        if not measured:
            yield f"| {model} | 0 | | | | | |"
            continue
        cells = []
        for kind in (ratio, mean_ratio):
            found = [each for row in measured if (each := kind(row)) is not None]
            cells += [f"{median(found):.2f}", f"{min(found):.2f}"]
        inside = sum(map(is_within, measured))
        yield f"| {model} | {len(measured)} | {' | '.join(cells)} | {inside} of {len(measured)} |"


def is_within(row: Row) -> bool:
    """Whether the mean held-out speedup lies in the interval that the profile promises."""
    expected = row["expected"]
    inside: bool = expected["low"] <= row["held_out"]["mean"] <= expected["high"]
    return inside


def category_table(rows: Sequence[Row]) -> Iterator[str]:
    """Held-out speedups of each category: median and minimum over the searches of a model."""
    yield "| model | category | held out: median over searches | minimum |"
    yield "|---|---|--:|--:|"
    for model, own in by_model(rows).items():
        found: dict[str, list[float]] = {}
        for row in own:
            for name, each in row.get("held_out", {}).get("by_category", {}).items():
                found.setdefault(name, []).append(each["median"])
        for name, medians in found.items():
            yield f"| {model} | {name} | {median(medians):.2f} | {min(medians):.2f} |"


def texts_note(rows: Sequence[Row]) -> Iterator[str]:
    """What the held-out figures are of."""
    every = [row["held_out"] for row in rows if "held_out" in row]
    counts = "; ".join(
        dict.fromkeys(
            f"{each['prompts']} prompts, up to {each['tokens']} tokens, {each['repeats']} repeats"
            for each in every
        )
    )
    yield (
        f"Held out: {counts}. Speedups are end to end, prefill included: medians of paired ratios "
        "with 95 % bootstrap intervals over prompts. *Promised* estimates the geometric mean over "
        "prompts, of which the columns *of means* are; a search that says off, or was refused, "
        "has no ratio. Promises are made with texts of up to "
        f"{SearchConfig().calibration_tokens} tokens; in longer ones the prefill has a smaller "
        "share of the time."
    )
