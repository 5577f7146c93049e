"""`skipopt show`: look at a profile, a study or a result, in the terminal, as PNG or as HTML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipopt.cli import options
from skipopt.cli.output import Output
from skipopt.errors import ProfileError, SkipoptError, UsageError
from skipopt.storage.workers import DEFAULT_STUDY

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skipopt.reporting.report import Report
    from skipopt.reporting.studies import Study

PICTURE, PAGE = ".png", ".html"
KNOWN = "show reads profiles, search journals, and what `bench -o` wrote"


def check_suffix(output: Path | None) -> Path | None:
    """Callback of --output: the name says what to write.

    Raises:
        UsageError: it says neither.
    """
    if output is not None and output.suffix.lower() not in (PICTURE, PAGE):
        raise UsageError(
            f"cannot tell from {str(output)!r} what to draw",
            hint=f"name it FILE{PICTURE} for a picture, FILE{PAGE} for a page",
        )
    return output


@dataclass(frozen=True, slots=True)
class View:
    """A file as one document, as something to look at in the terminal, and as a report."""

    document: dict[str, Any]
    picture: RenderableType
    report: Report


def show(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="A profile, a search's .journal, or a bench result."),
    ] = None,
    storage: Annotated[
        str | None,
        options.option(
            "--storage", metavar="URL", help="Without FILE: where workers share their study."
        ),
    ] = None,
    study: Annotated[
        str | None,
        options.option(
            "--study",
            metavar="NAME",
            help="The study on the storage. Default: skipopt.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int,
        options.option(
            "--top", metavar="N", min=1, help="Of a study: so many of the best trials."
        ),
    ] = 10,
    output: Annotated[
        Path | None,
        options.option(
            "--output",
            "-o",
            metavar="FILE",
            callback=check_suffix,
            help="Also draw it: as a picture (.png), or on a page with its table (.html). Needs "
            "the extra `skipopt[plots]`.",
        ),
    ] = None,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Look at a profile, a study or a result: in the terminal, as PNG, as one HTML page.

    Example: skipopt show profile.yaml -o profile.html
    """
    if file is not None:
        view = choose_view(read_start(Path(file)))(file, top)
    elif storage is not None:
        view = view_shared(storage, study or DEFAULT_STUDY, top)
    else:
        raise UsageError("there is nothing to show", hint="give a FILE, or --storage and --study")
    say = Output(json, quiet, verbose, no_progress)
    if output is not None:
        write_report(view.report, output)
    say.result(view.document, view.picture)
    if output is not None:
        say.note(f"wrote {output}")
    return 0


def write_report(report: Report, path: Path) -> None:
    """Draw it as the file's name says.

    Raises:
        SkipoptError: the extra is missing, or the file cannot be written.
    """
    from skipopt.files import write_atomically
    from skipopt.reporting.html import to_html
    from skipopt.reporting.plot_style import to_png

    png = path.suffix.lower() == PICTURE
    write_atomically(path, to_png(report.draw) if png else to_html(report))


def read_start(path: Path) -> str:
    """Enough of the file to tell what it is.

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
    """How to look at a file that begins like this."""
    head = start.lstrip()
    if head.startswith("{"):
        return view_journal if '"op_code"' in head.split("\n", 1)[0] else view_result
    return view_profile


def view_profile(file: str, top: int) -> View:
    from skipopt.profile import Profile
    from skipopt.reporting.profiles import profile_report, profile_text

    try:
        profile = Profile.load(file)
    except ProfileError as error:
        raise ProfileError(str(error), hint=f"{KNOWN}; {error.hint}") from None
    return View(profile.as_dict(), profile_text(profile), profile_report(profile))


def view_result(file: str, top: int) -> View:
    from skipopt.reporting.load_results import load_bench
    from skipopt.reporting.tables import bench_report, bench_table

    document, result = load_bench(Path(file))
    return View(document, bench_table(result), bench_report(result))


def view_journal(file: str, top: int) -> View:
    from skipopt.reporting.studies import load_study

    return view_study(load_study(file), top)


def view_shared(storage: str, name: str, top: int) -> View:
    from skipopt.reporting.studies import load_study

    return view_study(load_study(storage, name), top)


def view_study(study: Study, top: int) -> View:
    from skipopt.reporting.studies import best_trials, study_report, study_table

    return View(best_trials(study, top), study_table(study, top), study_report(study, top))
