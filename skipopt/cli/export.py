"""`skipopt export`: write a model folder that transformers decodes with a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.decoding_method import note_off
from skipopt.cli.model_options import ModelOptions, load_with_profile
from skipopt.cli.output import Output
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode


@command
def export(
    *,
    model: options.Model = None,
    profile: options.Profile = None,
    output: Annotated[
        Path | None,
        options.option("--output", "-o", metavar="FOLDER", help="The folder to write."),
    ] = None,
    copy: Annotated[
        bool, options.option("--copy", help="Copy the model's files instead of linking them.")
    ] = False,
    overwrite: Annotated[
        bool, options.option("--overwrite", help="Write into a folder that is not empty.")
    ] = False,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Write a model folder that transformers decodes with a profile.

    Where a model is loaded from it with trust_remote_code=True, `generate`, pipelines and
    `transformers serve` decode with the profile.

    Example: skipopt export -p profile.yaml -o fast-model
    """
    from skipopt.serving.model_folder import export as write_folder

    if profile is None:
        raise UsageError("export needs a profile", hint="--profile FILE, made by `skipopt search`")
    if output is None:
        raise UsageError("export needs a folder to write", hint="-o FOLDER")
    target, found = load_with_profile(model, profile, loading, terminal)
    assert found is not None
    folder = write_folder(
        target, found, output, weights="copy" if copy else "link", overwrite=overwrite
    )
    note_off(found, terminal)
    facts = {"folder": str(folder), "method": found.drafting.method, "dtype": target.dtype}
    terminal.result(facts, f"wrote {folder}")
    terminal.note(
        f"transformers loads it: from_pretrained({str(folder)!r}, trust_remote_code=True)"
    )
    return ExitCode.OK
