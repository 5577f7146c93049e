"""The result of `bench --batch-size` as a table for the terminal and for Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipopt.reporting.cells import interval_cell, lossless_cell, number_cell, place
from skipopt.reporting.markdown import markdown_section
from skipopt.reporting.report import TableData

if TYPE_CHECKING:
    from skipopt.measurement.batch_bench import BatchBenchResult, BatchMethodResult
    from skipopt.reporting.terminal_table import TerminalTable

COLUMNS = ("method", "tokens/s", "speedup", "accepted", "tokens/round", "pauses", "lossless")


def batch_table(result: BatchBenchResult) -> TerminalTable:
    """One row per method."""
    from skipopt.reporting.terminal_table import TerminalTable

    return TerminalTable(_batch_data(result), _title(result))


def batch_markdown(result: BatchBenchResult) -> str:
    """The result as a GitHub Markdown table, with machine and settings around it."""
    return "\n".join(markdown_section(_title(result), _batch_data(result)))


def _batch_data(result: BatchBenchResult) -> TableData:
    rows = tuple(map(_cells, result.methods))
    return TableData(COLUMNS, rows, frozenset((0, len(COLUMNS) - 1)), _caption(result))


def _title(result: BatchBenchResult) -> str:
    shown = f"{result.model['id']} on {place(result.environment)}"
    return f"{shown}, batches of {result.batch_size}"


def _caption(result: BatchBenchResult) -> str:
    work = result.workload
    return (
        f"{len(work.prompts)} of {work.given} prompts in batches of {result.batch_size}, up to "
        f"{result.max_new_tokens} new tokens each, {result.repeats} repeats. Tokens/s are of all "
        "texts of a batch together, without the prefill; speedups are over plain decoding of the "
        "same batches, medians of paired ratios with 95 % intervals. Pauses: how often drafting "
        "was paused because it lost. Lossless: each text against that of its prompt alone."
    )


def _cells(method: BatchMethodResult) -> tuple[str, ...]:
    return (
        method.name,
        f"{method.tokens_per_second:.1f}",
        interval_cell(method.speedup),
        number_cell(method.acceptance_rate, ".0%"),
        f"{method.mean_acceptance_length:.2f}",
        str(method.pauses),
        "same distribution" if method.lossless is None else lossless_cell(method.lossless),
    )
