"""`skipopt show`: a profile, a study or a bench result in the terminal, as PNG or as HTML."""

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

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skipopt.reporting.report import Report
    from skipopt.reporting.studies import Study

PNG, HTML = ".png", ".html"
KNOWN = "show reads profiles, search journals, what `bench -o` wrote, and histories of checks"
HISTORY_START = '{"skipopt_check_history":'  # of each line, see `reporting.check_history`


def check_suffix(output: Path | None) -> Path | None:
    """Callback of --output.

    Raises:
        UsageError: the file name ends with neither suffix.
    """
    if output is not None and output.suffix.lower() not in (PNG, HTML):
        raise UsageError(
            f"unknown suffix of {str(output)!r}",
            hint=f"name it FILE{PNG} for a picture, FILE{HTML} for a page",
        )
    return output


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
            help="A profile, a search's .journal, a bench result, or a history of checks.",
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
            help="Also draw it as a picture (.png), or as a page with its table (.html). Needs "
            "`skipopt[plots]`.",
        ),
    ] = None,
    terminal: Output,
) -> int:
    """Show a profile, a study or a bench result: in the terminal, as PNG, or as an HTML page.

    Example: skipopt show profile.yaml -o profile.html
    """
    if file is not None:
        view_of = view_profile if file == BUILTIN else choose_view(read_start(Path(file)))
        view = view_of(file, limit)
    elif storage is not None:
        view = view_shared(storage, study, limit)
    else:
        raise UsageError("nothing to show", hint="give a FILE, or --storage and --study")
    if view.note is not None:
        terminal.note(view.note)
    if output is not None:
        write_report(view.report, output)
    terminal.result(view.document, view.readable)
    if output is not None:
        terminal.note(f"wrote {output}")
    return ExitCode.OK


def write_report(report: Report, path: Path) -> None:
    """Draw the report as PNG or HTML, by the suffix of the file.

    Raises:
        SkipoptError: `skipopt[plots]` is not installed, or the file cannot be written.
    """
    from skipopt.files import write_atomically
    from skipopt.reporting.html import to_html
    from skipopt.reporting.plot_style import to_png

    is_png = path.suffix.lower() == PNG
    write_atomically(path, to_png(report.draw) if is_png else to_html(report))


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
    """The JSON of a bench result."""
    from skipopt.reporting.load_results import load_bench
    from skipopt.reporting.tables import bench_report, bench_table

    document, result = load_bench(Path(file))
    return View(document, bench_table(result), bench_report(result))


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
