"""Single options that several commands share, each declared once; see also `option_groups`.

A parameter is named like its flag, so that flag, `SKIPOPT_*` variable and config key agree.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from skipopt.errors import UsageError

# SKIPOPT_* variables are explained once, in the help of --config.
option = partial(typer.Option, show_envvar=False)


def read_names(text: object) -> tuple[str, ...]:
    """The names in a comma-separated list such as `skip,int8`."""
    return tuple(part.strip() for part in str(text).split(",") if part.strip())


def read_numbers(text: object, what: str, example: str) -> tuple[int, ...]:
    """The numbers in a comma-separated list such as `0,-1`.

    Raises:
        UsageError: an entry is not an integer.
    """
    try:
        return tuple(int(part) for part in str(text).split(",") if part.strip())
    except ValueError:
        raise UsageError(f"cannot read the {what} {text!r}", hint=f"like {example}") from None


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        envvar="SKIPOPT_MODEL",
        show_envvar=False,
        show_default=False,
        help="A Hugging Face id, a local folder, a .gguf file, or `builtin`. "
        "Default: the profile's model if there is a profile, else `builtin`.",
    ),
]
Profile = Annotated[
    str | None,
    option(
        "--profile",
        "-p",
        metavar="FILE",
        help="A profile written by `skipopt search`, `builtin` (that of the built-in model), or "
        "skip_layers.json as FILE#name.",
    ),
]
Prompts = Annotated[
    Path | None,
    option(
        "--prompts",
        metavar="FILE",
        help="Text separated by blank lines, JSON lines, JSON, CSV, TSV, or a folder of such "
        "files, packed with gzip or not. Default: a built-in set for the model.",
        show_default=False,
    ),
]
PromptKey = Annotated[
    str | None,
    option(
        "--prompt-key",
        metavar="NAME",
        help="The key or column of --prompts that holds the prompt: question, body.prompt. "
        "Default: it is recognized.",
        show_default=False,
    ),
]
NumPrompts = Annotated[
    int | None,
    option(
        "--num-prompts",
        metavar="N",
        min=1,
        help="Number of held-out prompts. Default: all, or two of each category of the general "
        "built-in set.",
        show_default=False,
    ),
]
ModelFlag = Annotated[
    str | None,
    option(
        "--model",
        metavar="MODEL",
        help="The same as MODEL.",
        show_default=False,
        allow_from_autoenv=False,
    ),
]
MaxNewTokens = Annotated[
    int,
    option(
        "--max-new-tokens",
        "--max-tokens",
        "-n",
        metavar="N",
        help="Most tokens to generate for each prompt.",
    ),
]
Seed = Annotated[int, option("--seed", metavar="N", help="Seed of the random numbers.")]
