"""Results of `bench` and `check` as tables for the terminal and for Markdown; missing: a dash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from skipopt.option_values import option_name
from skipopt.reporting.cells import (
    DASH,
    by_length,
    interval_cell,
    lossless_cell,
    number_cell,
    place,
)
from skipopt.reporting.intervals import interval, whole_interval
from skipopt.reporting.markdown import markdown_lines, markdown_section
from skipopt.reporting.report import Report, TableData

if TYPE_CHECKING:
    from rich.console import Group

    from skipopt.measurement.methods_table import BenchResult, MethodResult
    from skipopt.measurement.metrics import EndToEnd
    from skipopt.measurement.regression_gate import CheckResult
    from skipopt.measurement.speed_verdict import Kept
    from skipopt.reporting.lines import LabeledLines
    from skipopt.reporting.terminal_table import TerminalTable
    from skipopt.stats import Interval

COLUMNS = (
    "method",
    "tokens/s",
    "speedup",
    "end to end",
    "by length",
    "first text",
    "vs generate",
    "acceptance\nrate",
    "acceptance\nlength",
    "lossless",
)
FEW_PROMPTS = 6  # below which an interval over prompts says little
CATEGORY_TITLE = "Speedup by category"
SOURCE_COLUMNS = ("method", "source", "drafted", "accepted")
SOURCE_TITLE = "Drafted tokens by source, for 100 new tokens"


def bench_table(result: BenchResult) -> TerminalTable:
    """One row per method; a failed one shows its error."""
    from skipopt.reporting.terminal_table import TerminalTable

    failed = frozenset(n for n, method in enumerate(result.methods) if method.error)
    return TerminalTable(_bench_data(result), _title(result), failed)


def category_table(result: BenchResult) -> TerminalTable | None:
    """Speedups by category, one row each; None where the prompts have no categories."""
    return _further_table(_category_data(result), CATEGORY_TITLE)


def source_table(result: BenchResult) -> TerminalTable | None:
    """Drafted tokens by source; None where nothing was drafted."""
    return _further_table(_source_data(result), SOURCE_TITLE)


def _further_table(data: TableData | None, title: str) -> TerminalTable | None:
    from skipopt.reporting.terminal_table import TerminalTable

    return None if data is None else TerminalTable(data, title)


def all_tables(result: BenchResult) -> Group:
    """One row per method, and the speedups by category and the drafts by source, if any."""
    from rich.console import Group

    more = (category_table(result), source_table(result))
    return Group(bench_table(result), *(table for table in more if table is not None))


def bench_report(result: BenchResult) -> Report:
    """The table as a report, with a figure of the speedups."""
    from skipopt.reporting.bench_figures import bench_figures

    title = f"Speedup, {_sampling(result)}: {_title(result)}"
    labels = [_name(method) for method in result.methods]
    return Report(title, bench_figures(result, labels, title), _bench_data(result))


def _bench_data(result: BenchResult) -> TableData:
    """The table without columns in which there is nothing."""
    rows = [_cells(method) for method in result.methods]
    last = len(COLUMNS) - 1
    used = [
        n for n in range(len(COLUMNS)) if n in (0, last) or any(row[n] != DASH for row in rows)
    ]
    kept = tuple(tuple(row[n] for n in used) for row in rows)
    names = tuple(COLUMNS[n] for n in used)
    return TableData(names, kept, frozenset((0, len(used) - 1)), _caption(result))


def check_table(result: CheckResult) -> LabeledLines:
    """The verdict and the figures behind it, one per line."""
    from skipopt.reporting.lines import LabeledLines, Line

    color = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[result.verdict]
    verdict = Line("verdict", result.verdict, style=f"bold {color}")
    return LabeledLines((verdict, *(Line(*each) for each in check_lines(result))))


def markdown_table(result: BenchResult | CheckResult) -> str:
    """The result as a GitHub Markdown table, with machine and settings around it."""
    from skipopt.measurement.methods_table import BenchResult

    if not isinstance(result, BenchResult):
        rows = (("verdict", f"**{result.verdict}**"), *check_lines(result))
        data = TableData(("check", ""), rows, frozenset((0, 1)))
        return "\n".join([*markdown_lines(data), ""])
    return "\n".join(
        [
            *markdown_section(_title(result), _bench_data(result)),
            *markdown_section(CATEGORY_TITLE, _category_data(result)),
            *markdown_section(SOURCE_TITLE, _source_data(result)),
        ]
    )


def _source_data(result: BenchResult) -> TableData | None:
    """Method, source, and its drafted and accepted tokens."""
    rows = tuple(
        (method.name, name, f"{each.drafted:.0f}", f"{each.accepted:.0f}")
        for method in result.methods
        for name, each in method.drafts_by_source.items()
    )
    return TableData(SOURCE_COLUMNS, rows, frozenset((0, 1))) if rows else None


def _category_data(result: BenchResult) -> TableData | None:
    """For each category its prompts and the speedup of each method."""
    timed = [method for method in result.methods if method.speedup_by_category]
    columns = ("category", "prompts", *(method.name for method in timed))
    rows = tuple(
        (name, str(len(own)), *(_category_cell(method, name) for method in timed))
        for name, own in result.workload.by_category.items()
    )
    return TableData(columns, rows, frozenset((0,))) if rows else None


def _category_cell(method: MethodResult, category: str) -> str:
    return interval_cell(dict(method.speedup_by_category).get(category))


def _title(result: BenchResult) -> str:
    return f"{result.model['id']} on {place(result.environment)}"


def _caption(result: BenchResult) -> str:
    work = result.workload
    texts = (
        f"{len(work.prompts)} of {work.given} prompts, {_sampling(result)}, "
        f"up to {result.max_new_tokens} new "
        f"tokens, {result.repeats} repeats. Tokens/s, speedup and vs generate are of decoding "
        "alone, end to end is of whole texts with their prefill (by length: up to so many new "
        "tokens), first text is the same with nothing captured or copied before."
    )
    masks = dict.fromkeys(_masks(m.settings) for m in result.methods if "mask" in m.settings)
    masked = f" Mask: {'; '.join(masks)}." if masks else ""
    repetition = (
        f" {work.repetitive} continuations end in repetition: {work.repetitive_tokens} tokens"
        " are not timed."
    )
    return (
        f"{texts}{repetition if work.repetitive else ''} "
        "Speedups are medians of paired ratios with 95 % "
        f"bootstrap intervals over prompts; undecided: such an interval reaches from slower to "
        f"faster.{_few(result)}{masked}"
    )


def _few(result: BenchResult) -> str:
    count = len(result.workload.prompts)
    return f" Intervals over {count} prompts say little." if count < FEW_PROMPTS else ""


def _sampling(result: BenchResult) -> str:
    options = result.sampling
    first = "greedy"
    if not options.greedy:
        first = f"temperature {options.temperature:g}, seed {options.seed}"
    others = [
        f"{option_name(each.name)} {value:g}"
        for each in fields(options)
        if each.name not in ("temperature", "seed")
        and (value := getattr(options, each.name)) != each.default
    ]
    return ", ".join([first, *others])


def _cells(method: MethodResult) -> list[str]:
    if method.error is not None:
        return [method.name, *[DASH] * (len(COLUMNS) - 2), f"error: {method.error}"]
    return [
        _name(method),
        number_cell(method.tokens_per_second, ".1f"),
        interval_cell(method.speedup),
        _whole(method.end_to_end),
        by_length(method.end_to_end),
        _whole(method.first_text),
        interval_cell(method.speedup_vs_hf),
        number_cell(method.acceptance_rate, ".0%"),
        number_cell(method.mean_acceptance_length, ".2f"),
        _kept(method),
    ]


def _name(method: MethodResult) -> str:
    """`layer-skip (gamma 4, tau 0.2)`."""
    settings = "" if method.error is not None else _settings(method.settings)
    return f"{method.name} ({settings})" if settings else method.name


def _settings(settings: Mapping[str, Any]) -> str:
    """`gamma 4, tau 0.2; from 512 tokens on: gamma 2, tau 0.0`; masks are in the caption."""
    elsewhere = ("mask", "min_context", "contexts")
    shown = ", ".join(f"{key} {value}" for key, value in settings.items() if key not in elsewhere)
    later = (f"{_from(each)}: {_settings(each)}" for each in settings.get("contexts", ()))
    return "; ".join((shown, *later))


def _masks(settings: Mapping[str, Any]) -> str:
    """`attn 1; from 512 tokens on: attn 1-2`."""
    later = (f"{_from(each)}: {each['mask']}" for each in settings.get("contexts", ()))
    return "; ".join((str(settings["mask"]), *later))


def _from(settings: Mapping[str, Any]) -> str:
    return f"from {settings['min_context']} tokens on"


def check_lines(result: CheckResult) -> list[tuple[str, str]]:
    return [
        ("because", result.reason),
        ("end to end", _whole_words(result.end_to_end)),
        ("by length", by_length(result.end_to_end)),
        ("first text", _whole_words(result.first_text)),
        ("decoding", _words(result.speedup)),
        ("floor", f"{result.threshold.value:.3f}× ({result.threshold.reason})"),
        ("of baseline", _share_kept(result.kept)),
        ("lossless", lossless_cell(result.lossless)),
        ("acceptance rate", number_cell(result.acceptance_rate, ".1%")),
        ("on", place(result.environment)),
    ]


def _whole_words(found: EndToEnd | None) -> str:
    return _words(None if found is None else found.whole)


def _words(found: Interval | None) -> str:
    return DASH if found is None else interval(found)


def _share_kept(kept: Kept | None) -> str:
    """`0.98× (0.95–1.01) on 32 texts; plain decoding takes 1.02× the time`."""
    if kept is None:
        return DASH
    return (
        f"{whole_interval(**kept.answer.ratio.to_json())} on {kept.prompts} texts; "
        f"plain decoding takes {kept.plain:.2f}× the time"
    )


def _whole(found: EndToEnd | None) -> str:
    return interval_cell(found.whole if found is not None else None)


def _kept(method: MethodResult) -> str:
    """Whether the text was kept, and the method's guarantee."""
    found = method.lossless
    if method.guarantee == "same distribution":
        return "same distribution"
    if method.guarantee == "none" and found is not None:
        return f"relaxed ({found.total - found.exact} of {found.total} texts differ)"
    return lossless_cell(found)
