"""Options that several commands share, by type. Knows nothing of what commands do with them.

A parameter is named like its flag, so that flag, `SKIPOPT_*` variable and config key agree.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from skipopt.cli.output import remember
from skipopt.cli.settings import apply_config
from skipopt.methods import METHODS

# The variables are explained once, at --config.
option = partial(typer.Option, show_envvar=False)

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        envvar="SKIPOPT_MODEL",
        show_envvar=False,
        show_default=False,
        help="A Hugging Face id, a local folder, or `builtin`. "
        "Default: the profile's model where there is a profile, else `builtin`.",
    ),
]
Device = Annotated[str, option("--device", metavar="D", help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[
    str,
    option(
        "--dtype",
        metavar="T",
        help="auto (float32 on a CPU, the checkpoint's own on a GPU), float32, bfloat16, float16.",
    ),
]
Threads = Annotated[
    int | None,
    option(
        "--threads",
        metavar="N",
        min=1,
        help="CPU threads to compute with. Default: as torch chooses.",
        show_default=False,
    ),
]
Runtime = Annotated[
    str,
    option(
        "--runtime",
        metavar="R",
        help="eager: transformers' modules as they are; prepacked: with prepacked weights, on a "
        "CPU; captured: steps captured once and replayed (CUDA graphs on a GPU, TorchScript on "
        "a CPU), prepacked where that pays; inductor: these through torch.compile, for a GPU; "
        "auto: the fastest that works here, and says why where that is not the fastest there is.",
    ),
]
DeviceMap = Annotated[
    str | None,
    option(
        "--device-map",
        metavar="MAP",
        help="auto spreads a large model over GPUs, memory and disk, in place of --device "
        "(docs/large-models.md; needs `skipopt[large]`).",
        show_default=False,
    ),
]
Revision = Annotated[
    str | None,
    option("--revision", metavar="R", help="Branch, tag or commit of the model."),
]
TrustRemoteCode = Annotated[
    bool,
    option(
        "--trust-remote-code",
        help="Run code that comes with the model.",
    ),
]
Json = Annotated[bool, option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[
    bool,
    option("--quiet", "-q", help="Nothing on stderr but errors."),
]
Verbose = Annotated[
    bool,
    option(
        "--verbose",
        "-v",
        callback=remember,
        is_eager=True,
        help="Also what libraries say, and the traceback of a bug.",
    ),
]
NoProgress = Annotated[
    bool,
    option(
        "--no-progress",
        help="No live display: plain lines now and then, or none.",
    ),
]
Config = Annotated[
    Path | None,
    option(
        "--config",
        metavar="FILE",
        callback=apply_config,
        is_eager=True,
        help="YAML of any of these options. A flag goes before a SKIPOPT_* variable, "
        "that before this file, that before the default.",
    ),
]
Profile = Annotated[
    str | None,
    option(
        "--profile",
        "-p",
        metavar="FILE",
        help="The YAML that `skipopt search` made, or skip_layers.json as FILE#name.",
    ),
]
Prompts = Annotated[
    Path | None,
    option(
        "--prompts",
        metavar="FILE",
        help="Text separated by blank lines, JSON lines, or a folder of files. "
        "Default: a built-in set.",
        show_default=False,
    ),
]
MaxNewTokens = Annotated[
    int, option("--max-new-tokens", metavar="N", help="Tokens of each text, at most.")
]
Temperature = Annotated[
    float,
    option("--temperature", metavar="T", help="0 is greedy: always the likeliest token."),
]
TopP = Annotated[
    float, option("--top-p", metavar="P", help="Sample among the likeliest with this probability.")
]
TopK = Annotated[
    int, option("--top-k", metavar="K", help="Sample among so many likeliest; 0: all.")
]
Method = Annotated[
    str | None,
    option(
        "--method",
        metavar="NAME",
        help=f"{', '.join(METHODS)}; options behind it: lookahead:window=7:ngram=5 "
        "(docs/methods.md). Default: the profile's, else plain. With verify=relaxed-… the output "
        "is relaxed: not that of the model.",
        show_default=False,
    ),
]
Seed = Annotated[int, option("--seed", metavar="N", help="The same seed, the same result.")]
