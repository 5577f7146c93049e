"""Options that several commands share, by type. Knows nothing of what commands do with them.

A parameter is named like its flag, so that flag, `SKIPOPT_*` variable and config key agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skipopt.cli.output import remember_verbose
from skipopt.cli.settings import apply_config

MODEL = "Model"
OUTPUT = "Output"

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        envvar="SKIPOPT_MODEL",
        show_envvar=False,
        show_default=False,
        help="A Hugging Face id, a local folder, or `builtin`. "
        "Default: the profile's model where there is a profile, else `builtin`.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=MODEL)
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto (float32 on a CPU, the checkpoint's own on a GPU), float32, bfloat16, float16.",
        rich_help_panel=MODEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads to compute with. Default: as torch chooses.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision", help="Branch, tag or commit of the model.", rich_help_panel=MODEL
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model.",
        rich_help_panel=MODEL,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Nothing on stderr but errors.", rich_help_panel=OUTPUT
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=remember_verbose,
        is_eager=True,
        help="Also what libraries say, and the traceback of a bug.",
        rich_help_panel=OUTPUT,
    ),
]
NoProgress = Annotated[
    bool,
    typer.Option(
        "--no-progress",
        help="Plain lines now and then instead of a live display.",
        rich_help_panel=OUTPUT,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=apply_config,
        is_eager=True,
        help="YAML of any of these options. A flag goes before a SKIPOPT_* variable, "
        "that before this file, that before the default.",
        rich_help_panel=OUTPUT,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        metavar="FILE",
        help="The YAML that `skipopt search` made, or skip_layers.json as FILE#name.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Text separated by blank lines, JSON lines, or a folder of files. "
        "Default: a built-in set.",
        show_default=False,
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", help="Tokens of each text, at most.")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed, the same result.")]
