"""`skipopt bench`: every method side by side on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.decoding_method import note_off
from skipopt.cli.draft_memory import check_memory, open_memory
from skipopt.cli.model_options import ModelOptions, load_with_profile
from skipopt.cli.output import Output
from skipopt.cli.prompt_options import held_out, prompts_for, read_prompts
from skipopt.cli.text_output import note_compilation, note_memory
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode
from skipopt.measurement.timing import DEFAULT_REPEATS
from skipopt.methods import METHODS
from skipopt.sampling import SamplingOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skipopt.measurement.batch_bench import BatchBenchResult
    from skipopt.measurement.methods_table import BenchResult


@command
def bench(
    *,
    model: options.Model = None,
    profile: options.Profile = None,
    prompts: options.Prompts = None,
    prompt_key: options.PromptKey = None,
    num_prompts: options.NumPrompts = None,
    methods: Annotated[
        str | None,
        options.option(
            "--methods",
            metavar="A,B,…",
            help=f"{', '.join(METHODS)}, with options after the name as in lookahead:window=7; "
            "profile: the profile's method; of transformers: hf-generate, hf-early-exit, "
            "hf-prompt-lookup. Default: plain, the profile's method and layer-skip if there is a "
            "profile, suffix, hf-generate, hf-prompt-lookup.",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[
        int,
        options.option(
            "--repeats",
            metavar="N",
            min=1,
            help="Number of times that each method decodes each prompt.",
        ),
    ] = DEFAULT_REPEATS,
    max_new_tokens: options.MaxNewTokens = 64,
    batch_size: Annotated[
        int,
        options.option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Prompts that are decoded together. Above 1 the methods are plain, layer-skip, "
            "prompt-lookup and suffix, and speedups are over plain decoding of the same batches.",
        ),
    ] = 1,
    sampling: SamplingOptions,
    memory: Annotated[
        Path | None,
        options.option(
            "--memory",
            metavar="FILE",
            help="Earlier texts, kept by `skipopt run --memory`: methods that copy are also timed "
            "with them. No text is added.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        options.option(
            "--output",
            "-o",
            metavar="FILE",
            help="Also write the JSON to this file, and a table to the .md file of that name.",
        ),
    ] = None,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Compare methods on the same held-out prompts, with paired, interleaved timing.

    Example: skipopt bench --profile profile.yaml -o bench.json
    """
    from skipopt.cli.progress import Display
    from skipopt.measurement.batch_bench import bench_batches
    from skipopt.measurement.methods_table import PROFILE_METHOD
    from skipopt.measurement.methods_table import bench as bench_texts

    names = None if methods is None else read_methods(methods, profile is not None)
    if batch_size > 1:
        check_batch_methods(names, memory)
    check_output(output, {"--profile": profile, "--prompts": prompts, "--memory": memory})
    remembered = open_memory(memory)
    given = read_prompts(prompts, prompt_key, terminal)
    target, found = load_with_profile(model, profile, loading, terminal)
    check_memory(remembered, memory, target)
    texts = held_out(prompts_for(given, target, terminal), num_prompts, terminal).held_out
    if found is not None and (names is None or PROFILE_METHOD in names):
        note_off(found, terminal)
    measure: Callable[..., BenchResult | BatchBenchResult]
    if batch_size > 1:
        measure, unit = partial(bench_batches, batch_size=batch_size), " batches"
    else:
        measure, unit = partial(bench_texts, memory=remembered), " decodings"
    with Display(terminal) as display:
        result = measure(
            target,
            texts,
            names,
            found,
            max_new_tokens=max_new_tokens,
            repeats=repeats,
            options=sampling,
            on_progress=display.counter("bench", unit),
        )
    show_result(result, output, terminal)
    note_memory(target, terminal)
    note_compilation(target, terminal)
    return ExitCode.OK


def check_batch_methods(names: Sequence[str] | None, memory: Path | None) -> None:
    """Raise UsageError for what is not for batches."""
    from skipopt.decoding.batch import BATCH_METHODS, OTHER_METHOD
    from skipopt.measurement.methods_table import PROFILE_METHOD

    if memory is not None:
        raise UsageError("--memory is for a batch size of 1", hint="leave one of them out")
    for name in names or ():
        if name.partition(":")[0] not in (*BATCH_METHODS, PROFILE_METHOD):
            raise UsageError(f"{name} does not decode batches", hint=OTHER_METHOD)


def read_methods(methods: str, has_profile: bool) -> list[str]:
    """The names in `A,B,…`.

    Raises:
        UsageError: there is no name, an unknown one or one with an unknown option, or `profile`
            without a profile.
    """
    from skipopt.decoding.api import check_options
    from skipopt.measurement.methods_table import PROFILE_METHOD
    from skipopt.measurement.runners import PEERS
    from skipopt.methods import parse_method

    names = list(options.read_names(methods))
    known = ", ".join((*METHODS, PROFILE_METHOD, *PEERS))
    if not names:
        raise UsageError("--methods names no method", hint=f"use some of {known}")
    for name in names:
        if name == PROFILE_METHOD and not has_profile:
            raise UsageError(
                "the method `profile` needs a profile, and none is given",
                hint="give one with --profile, made by `skipopt search`",
            )
        if name.partition(":")[0] not in (*METHODS, PROFILE_METHOD, *PEERS):
            raise UsageError(f"unknown method {name!r}", hint=f"use some of {known}")
        if name not in (PROFILE_METHOD, *PEERS):
            check_options(parse_method(name))
    return names


def check_output(output: Path | None, inputs: Mapping[str, Path | str | None]) -> None:
    """Check before the measurement that the result can be written.

    Args:
        inputs: files that the command reads, by option; None where it is not given.

    Raises:
        OutputError: a result could not be written.
        UsageError: the JSON or a file that is read would be overwritten by the table.
    """
    from skipopt.files import check_apart, check_writable

    if output is None:
        return
    if output.suffix == ".md":
        raise UsageError(
            f"{output} is for the JSON", hint="name it .json; the .md file is written too"
        )
    table = output.with_suffix(".md")
    read = {name: Path(path) for name, path in inputs.items() if path is not None}
    check_apart(table, read, "the table")
    for path in (output, table):
        check_writable(path)


def show_result(
    result: BenchResult | BatchBenchResult, output: Path | None, terminal: Output
) -> None:
    """Write the JSON, and the Markdown to the .md file of that name; then print the tables."""
    from json import dumps

    from skipopt.files import write_atomically

    found = result.to_json()
    markdown, tables = readable(result)
    try:
        if output is not None:
            write_atomically(output, dumps(found, ensure_ascii=False, indent=1) + "\n")
            write_atomically(output.with_suffix(".md"), markdown)
    finally:
        terminal.result(found, tables)
    if output is not None:
        terminal.note(f"wrote {output} and {output.with_suffix('.md')}")


def readable(result: BenchResult | BatchBenchResult) -> tuple[str, RenderableType]:
    """The result in Markdown, and as tables for the terminal."""
    from skipopt.measurement.methods_table import BenchResult
    from skipopt.reporting.batch_tables import batch_markdown, batch_table
    from skipopt.reporting.tables import all_tables, markdown_table

    if isinstance(result, BenchResult):
        return markdown_table(result), all_tables(result)
    return batch_markdown(result), batch_table(result)
