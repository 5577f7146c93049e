"""`skipopt train`: train what the package needs; today the built-in model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skipopt.cli import options
from skipopt.cli.output import Output
from skipopt.errors import OutputError, UsageError

KINDS = ("builtin",)


def train(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="`builtin`: the model that skipopt brings along.")
    ],
    minutes: Annotated[
        float,
        options.option("--minutes", metavar="M", help="Training time; the checkpoint's counts."),
    ] = 60.0,
    output: Annotated[
        Path, options.option("--output", "-o", metavar="FOLDER", help="The model folder to write.")
    ] = Path("builtin-model"),
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Train a small model on the Python standard library, made to be skipped in.

    The checkpoint lies beside the folder; the same command goes on from it.

    Example: skipopt train builtin --minutes 60 -o my-model
    """
    say = Output(json, quiet, verbose, no_progress)
    check_request(kind, minutes)
    check_folder(output)
    from skipopt.cli.loading import set_up_torch
    from skipopt.models.loading import resolve_device
    from skipopt.training.builtin import Recipe
    from skipopt.training.builtin import train as run_training

    set_up_torch(threads, say)
    run_training(Recipe(minutes=minutes), output, resolve_device(device), say.progress)
    facts = read_facts(output)
    loss = facts.get("held_out_loss")
    say.result(facts, f"wrote {output}: held-out loss {loss}")
    return 0


def check_request(kind: str, minutes: float) -> None:
    """Raises UsageError for a kind that there is not, or no time."""
    if kind not in KINDS:
        raise UsageError(f"cannot train {kind!r}", hint=f"use one of {', '.join(KINDS)}")
    if not 0 < minutes < float("inf"):
        raise UsageError(f"minutes must be above 0, not {minutes:g}")


def check_folder(folder: Path) -> None:
    """Fail now rather than after an hour.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    from skipopt.files import check_writable

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {str(folder)!r}: {error.strerror}", hint="choose another"
        ) from None
    check_writable(folder / "config.json")
    check_writable(folder.with_suffix(".checkpoint"))


def read_facts(folder: Path) -> dict[str, Any]:
    """What the training wrote of itself."""
    import json

    facts: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return facts
