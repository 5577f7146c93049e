"""The `skipopt` command: its subcommands, and the reporting of errors."""

from __future__ import annotations

import errno
import gc
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from skipopt.cli.bench import bench
from skipopt.cli.chat import chat
from skipopt.cli.check import check
from skipopt.cli.env import env
from skipopt.cli.export import export
from skipopt.cli.help import WholeSummaries
from skipopt.cli.option_groups import PANELS
from skipopt.cli.output import Session, one_line, print_error
from skipopt.cli.run import run
from skipopt.cli.search import search
from skipopt.cli.serve import serve
from skipopt.cli.settings import FROM_ENVIRONMENT, WholeVariables
from skipopt.cli.show import show
from skipopt.cli.streams import (
    OutputClosed,
    drop,
    flush_output,
    open_missing_streams,
    print_line,
    writing,
)
from skipopt.cli.train import train
from skipopt.errors import DraftConfigWarning, SkipoptError, UsageError
from skipopt.exit_codes import ExitCode
from skipopt.interrupts import stop_signals

DESCRIPTION = "Speed up LLM decoding with layer-skip self-speculation; output is unchanged."
NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EIO)  # where stdout is not writable
HELP_OPTIONS = ["--help", "-h"]
REPORT_HINT = "please report it, with the output of `skipopt env`"

WholeVariables.panels = PANELS

app = typer.Typer(
    name="skipopt",
    cls=WholeSummaries,
    rich_markup_mode=None,
    help=DESCRIPTION,
    epilog=f"Exit status: {', '.join(f'{code.value} {code.meaning}' for code in ExitCode)}.",
    context_settings={"help_option_names": HELP_OPTIONS},
)
for each in (search, run, chat, bench, check, export, serve, show, train, env):
    app.command(cls=WholeVariables, context_settings=FROM_ENVIRONMENT)(each)


def _print_version(requested: bool) -> None:
    if requested:
        from skipopt import __version__

        with writing():
            print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """The options of `skipopt` itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    A traceback is shown only with --verbose.

    Args:
        arguments: the arguments without the program name; `sys.argv[1:]` by default.
    """
    is_own = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    session = Session()
    open_missing_streams()
    _replace_unprintable()
    with stop_signals(ends_process=is_own) as signals:
        try:
            code = _run_and_flush(arguments, session)
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
    if code == ExitCode.INTERRUPTED and signals.first is not None:
        return 128 + signals.first
    return code


def _run_and_flush(arguments: Sequence[str], session: Session) -> int:
    code = _run(arguments, session)
    try:
        flush_output()
    except OSError as error:
        return code or report(error, session)
    return code


def _run(arguments: Sequence[str], session: Session) -> int:
    """Run a command line and return its exit status."""
    try:
        if (text := _help_of_command(arguments)) is not None:
            with writing():
                print(text)
            return ExitCode.OK
        with _short_warnings():
            code = app(
                args=list(arguments) or ["--help"],
                prog_name="skipopt",
                standalone_mode=False,
                obj=session,
            )
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except OutputClosed:
        return ExitCode.OK
    except SystemExit:  # of typer, where nobody reads the help
        drop(sys.stdout)
        return ExitCode.OK
    except Exception as error:
        return report(error, session)
    finally:
        gc.unfreeze()  # what was frozen when a model was loaded
    return int(code or 0) if arguments else ExitCode.USAGE


def _help_of_command(arguments: Sequence[str]) -> str | None:
    """What `skipopt COMMAND --help` prints; None for other command lines.

    Made without parsing the command line, for which typer imports pydantic: that takes as long as
    everything else.
    """
    if len(arguments) != 2 or arguments[1] not in HELP_OPTIONS:
        return None
    group, name = typer.main.get_command(app), arguments[0]
    assert isinstance(group, typer.core.TyperGroup)
    if (command := group.commands.get(name)) is None:
        return None
    parent = typer.Context(group, info_name="skipopt", **group.context_settings)
    context = typer.Context(command, parent=parent, info_name=name, **command.context_settings)
    return command.get_help(context)


def report(error: Exception, session: Session) -> int:
    """Print an error with a hint, and return the exit status."""
    # An option that does not parse fails before `session.command` is set.
    context = getattr(error, "ctx", None)
    see_help = f"see `{context.command_path if context else session.command} --help`"
    if isinstance(error, UsageError):
        print_error(str(error), error.hint or see_help)
        return ExitCode.USAGE
    if isinstance(error, SkipoptError):
        print_error(str(error), error.hint)
        return ExitCode.ERROR
    if isinstance(error, typer.TyperException):
        print_error(error.format_message(), see_help)
        return error.exit_code
    if isinstance(error, typer.Abort):
        return ExitCode.INTERRUPTED
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        print_error("out of memory", "try a smaller --dtype, a shorter text, or --device cpu")
        return ExitCode.ERROR
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        reason = os.strerror(error.errno)
        print_error(f"cannot write the output: {reason}", "free some space, or write elsewhere")
        return ExitCode.ERROR
    return _report_bug(error, session.verbose)


def _report_bug(error: Exception, verbose: bool) -> int:
    print_error(
        f"this is a bug in skipopt: {type(error).__name__}: {error}",
        REPORT_HINT if verbose else f"{REPORT_HINT}; --verbose shows the traceback",
    )
    if verbose:
        import traceback

        traceback.print_exception(error)
    return ExitCode.ERROR


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Print skipopt's own warnings as one line, without file and line number."""

    def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, DraftConfigWarning):
            print_line(f"note: {one_line(str(message))}")
        else:
            default_show(message, category, *args, **kwargs)

    with warnings.catch_warnings():
        default_show, warnings.showwarning = warnings.showwarning, show
        yield


def _replace_unprintable() -> None:
    """Print `?` for characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
