"""`skipopt show`: a profile, a study or a result, in the terminal, as a figure or as a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.model_options import BUILTIN
from skipopt.cli.output import Output
from skipopt.errors import ProfileError, SkipoptError, UsageError
from skipopt.exit_codes import ExitCode
from skipopt.reporting.report import PICTURES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skipopt.reporting.report import Report
    from skipopt.reporting.studies import Study

HTML = ".html"
FIGURES = (".png", ".svg", ".pdf")
KNOWN = (
    "show reads profiles, search journals, histories of checks, and what `bench -o`, "
    "`check --json` or `run --json` wrote"
)
HISTORY_START = '{"skipopt_check_history":'  # of each line, see `reporting.check_history`


def check_suffix(output: Path | None) -> Path | None:
    """Callback of --output.

    Raises:
        UsageError: the file name ends with none of the suffixes.
    """
    if output is not None and output.suffix.lower() not in (*FIGURES, HTML):
        raise UsageError(
            f"unknown suffix of {str(output)!r}",
            hint=f"name it FILE{', FILE'.join(FIGURES)} for a figure, FILE{HTML} for a page",
        )
    return output


def check_plot(plot: str | None) -> str | None:
    """Callback of --plot.

    Raises:
        UsageError: there is no such figure.
    """
    if plot is not None and plot not in PICTURES:
        raise UsageError(f"unknown figure {plot!r}", hint=f"one of {', '.join(PICTURES)}")
    return plot


@dataclass(frozen=True, slots=True)
class View:
    """The content of a file as JSON, as terminal output, and as a report to draw.

    Attributes:
        note: what is wrong with the file, where it can be shown nevertheless.
    """

    document: dict[str, Any]
    readable: RenderableType
    report: Report
    note: str | None = None


@command
def show(
    *,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="A profile, a search's .journal, the JSON of bench, check or run, or a history "
            "of checks.",
        ),
    ] = None,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="OTHER", help="Compare FILE with it: two profiles, or two bench results."
        ),
    ] = None,
    storage: Annotated[
        str | None,
        options.option(
            "--storage", metavar="URL", help="Instead of FILE: the storage that holds the study."
        ),
    ] = None,
    study: Annotated[
        str | None,
        options.option(
            "--study",
            metavar="NAME",
            help="Name of the study on the storage. Default: skipopt.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int,
        options.option(
            "--limit", metavar="N", min=1, help="Number of the best trials of a study to show."
        ),
    ] = 10,
    output: Annotated[
        Path | None,
        options.option(
            "--output",
            "-o",
            metavar="FILE",
            callback=check_suffix,
            help="Also draw one figure (.png, .svg, .pdf), or a page with all figures and the "
            "table (.html). Needs `skipopt[plots]`.",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        options.option(
            "--plot",
            metavar="NAME",
            callback=check_plot,
            help=f"The figure to draw: {', '.join(PICTURES)}. Default: the first one that FILE "
            "has values for.",
            show_default=False,
        ),
    ] = None,
    terminal: Output,
) -> int:
    """Show a profile, a search or a result, or compare two: in the terminal, as figure or page.

    Example: skipopt show profile.yaml -o profile.html
    """
    from skipopt.files import check_apart

    if plot is not None and (output is None or output.suffix.lower() == HTML):
        raise UsageError(
            "--plot selects the figure of a file", hint="give -o FIGURE.png, .svg or .pdf"
        )
    if file is not None and other is not None:
        if output is not None:
            check_apart(output, {"OTHER": Path(other)}, "--output")
        view = compare_files(file, other, limit)
    elif file is not None:
        view_of = view_profile if file == BUILTIN else choose_view(read_start(Path(file)))
        view = view_of(file, limit)
    elif storage is not None:
        view = view_shared(storage, study, limit)
    else:
        raise UsageError("nothing to show", hint="give a FILE, or --storage and --study")
    if view.note is not None:
        terminal.note(view.note)
    if output is not None:
        write_report(view.report, output, plot)
    terminal.result(view.document, view.readable)
    if output is not None:
        terminal.note(f"wrote {output}")
    return ExitCode.OK


def write_report(report: Report, path: Path, plot: str | None = None) -> None:
    """Draw one figure of the report, or the page, by the suffix of the file.

    Args:
        plot: name of the figure; None: the first one.

    Raises:
        SkipoptError: `skipopt[plots]` is not installed, there is nothing for the figure, or the
            file cannot be written.
    """
    from skipopt.files import write_atomically
    from skipopt.reporting.html import to_html
    from skipopt.reporting.plot_style import to_pdf, to_png, to_svg_file

    suffix = path.suffix.lower()
    if suffix == HTML:
        write_atomically(path, to_html(report))
        return
    render = {".png": to_png, ".svg": to_svg_file, ".pdf": to_pdf}[suffix]
    write_atomically(path, render(report.picture(plot).draw))


def read_start(path: Path) -> str:
    """The first 4096 characters, enough to recognize the file.

    Raises:
        SkipoptError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(4096)
    except OSError as error:
        raise SkipoptError(
            f"cannot read {str(path)!r}: {error.strerror}", hint="check the path"
        ) from None


def choose_view(start: str) -> Callable[[str, int], View]:
    """The function that reads a file which begins like this."""
    if '{"op_code":' in start:  # not always in the first line, which may be damaged
        return view_journal
    if start.lstrip().startswith(HISTORY_START):
        return view_history
    return view_result if start.lstrip().startswith("{") else view_profile


def view_profile(file: str, limit: int) -> View:
    """A profile.

    Raises:
        ProfileError: the file is not a profile.
    """
    from skipopt.decoding.api import load_profile
    from skipopt.reporting.profiles import profile_report, profile_text

    try:
        profile = load_profile(file)
    except ProfileError as error:
        raise ProfileError(str(error), hint=f"{KNOWN}; {error.hint}") from None
    return View(profile.as_dict(), profile_text(profile), profile_report(profile))


def view_result(file: str, limit: int) -> View:
    """The JSON of `bench`, `check` or `run`."""
    from skipopt.reporting import load_results, tables
    from skipopt.reporting.other_results import check_report, run_lines, run_report

    path = Path(file)
    kind = load_results.kind_of(load_results.read_document(path))
    if kind == "check":
        document, check = load_results.load_check(path)
        return View(document, tables.check_table(check), check_report(check))
    if kind == "run":
        document, run = load_results.load_run(path)
        return View(document, run_lines(run), run_report(run))
    document, bench = load_results.load_bench(path)
    return View(document, tables.all_tables(bench), tables.bench_report(bench))


def compare_files(file: str, other: str, limit: int) -> View:
    """Two profiles, or two bench results.

    Raises:
        UsageError: the files are of another kind, or of two kinds.
    """
    from skipopt.decoding.api import load_profile
    from skipopt.reporting import comparison, load_results

    files = (file, other)
    kinds = {choose_view(read_start(Path(each))) for each in files}
    names = distinct_names(files)
    if kinds == {view_profile}:
        profiles = [load_profile(each) for each in files]
        document = dict(zip(names, (each.as_dict() for each in profiles), strict=True))
        report = comparison.profiles_report(profiles, names)
    elif kinds == {view_result}:
        read = [load_results.load_bench(Path(each)) for each in files]
        document = dict(zip(names, (each for each, _ in read), strict=True))
        report = comparison.benches_report([result for _, result in read], names)
    else:
        raise UsageError(
            f"{file} and {other} cannot be compared",
            hint="give two profiles, or two bench results",
        )
    return View(document, comparison.comparison_text(report.table), report)


def distinct_names(files: tuple[str, str]) -> tuple[str, str]:
    """The names of two files, with their folders where they are the same."""
    short = Path(files[0]).name, Path(files[1]).name
    return short if short[0] != short[1] else files


def view_journal(file: str, limit: int) -> View:
    """The study of a journal file."""
    from skipopt.reporting.studies import load_study
    from skipopt.storage.journal import damage_note

    return replace(view_study(load_study(file), limit), note=damage_note(Path(file)))


def view_history(file: str, limit: int) -> View:
    """The checks that `check --history` has appended to a file."""
    from skipopt.reporting.check_history import read_history
    from skipopt.reporting.history_view import history_document, history_report, history_table

    found = read_history(Path(file))
    note = f"{found.damaged} lines of {file} are damaged and left out" if found.damaged else None
    return View(history_document(found), history_table(found), history_report(found), note)


def view_shared(storage: str, name: str | None, limit: int) -> View:
    """A study on a storage; None: the one with the default name."""
    from skipopt.reporting.studies import load_study

    found = load_study(storage) if name is None else load_study(storage, name)
    return view_study(found, limit)


def view_study(study: Study, limit: int) -> View:
    """The best trials of a study."""
    from skipopt.reporting.studies import best_trials, study_report, study_table

    return View(best_trials(study, limit), study_table(study, limit), study_report(study, limit))
