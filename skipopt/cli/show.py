"""`skipopt show`: look at a profile, a study or a result in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipopt.cli import options
from skipopt.cli.output import Output
from skipopt.errors import ProfileError, SkipoptError

if TYPE_CHECKING:
    from rich.console import RenderableType

KNOWN = "show reads profiles, search journals, and what `bench -o` wrote"


@dataclass(frozen=True, slots=True)
class View:
    """A file as one document, and as something to look at."""

    document: dict[str, Any]
    picture: RenderableType


def show(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A profile, a search's .journal, or a bench result."),
    ],
    top: Annotated[
        int,
        options.option(
            "--top", metavar="N", min=1, help="Of a journal: so many of the best trials."
        ),
    ] = 10,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Look at a profile, a study or a result in the terminal.

    Example: skipopt show profile.yaml
    """
    text = read_start(Path(file))
    view = choose_view(text)(file, top)
    Output(json, quiet, verbose, no_progress).result(view.document, view.picture)
    return 0


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
    from skipopt.reporting.profiles import profile_text

    try:
        profile = Profile.load(file)
    except ProfileError as error:
        raise ProfileError(str(error), hint=f"{KNOWN}; {error.hint}") from None
    return View(profile.as_dict(), profile_text(profile))


def view_result(file: str, top: int) -> View:
    from skipopt.reporting.saved import load_bench
    from skipopt.reporting.tables import bench_table

    document, result = load_bench(Path(file))
    return View(document, bench_table(result))


def view_journal(file: str, top: int) -> View:
    from skipopt.reporting.studies import best_trials, load_study, study_table

    study = load_study(Path(file))
    return View(best_trials(study, top), study_table(study, top))
