"""`skipopt train`: train what a drafter needs, on text that the model generates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.model_options import ModelOptions, load_with_profile
from skipopt.cli.output import Output
from skipopt.cli.prompt_options import prompts_for, read_prompts
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode
from skipopt.sampling import check_seed

if TYPE_CHECKING:
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.prompts import PromptSet
    from skipopt.training.self_text import Pool

HEADS, MASK_TOKENS = KINDS = ("heads", "mask-tokens")
ARCHITECTURES = ("ffn", "medusa")
MAX_COUNT = 64
OUTPUTS = {
    HEADS: Path("heads.safetensors"),
    MASK_TOKENS: Path("mask-tokens.safetensors"),
}
# Options of one kind only.
KIND_OF = {
    "arch": HEADS,
    "num_heads": HEADS,
    "num_tokens": MASK_TOKENS,
    "profile": MASK_TOKENS,
}


@command
def train(
    *,
    ctx: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="`heads` (blockwise drafting) or `mask-tokens` (Spec-Drafter).",
        ),
    ],
    model: options.Model = None,
    arch: Annotated[
        str,
        options.option(
            "--arch",
            metavar="NAME",
            help="heads: ffn (one network for all heads) or medusa (one network per head).",
        ),
    ] = "ffn",
    num_heads: Annotated[
        int,
        options.option(
            "--num-heads", metavar="K", help="heads: number of heads, one per drafted token."
        ),
    ] = 4,
    num_tokens: Annotated[
        int,
        options.option(
            "--num-tokens",
            metavar="K",
            help="mask-tokens: number of mask tokens, one per drafted token.",
        ),
    ] = 4,
    profile: Annotated[
        str | None,
        options.option(
            "--profile",
            "-p",
            metavar="FILE",
            help="mask-tokens: train them for drafts with the skip mask of this profile. "
            "Default: for drafts of the full model.",
            show_default=False,
        ),
    ] = None,
    prompts: options.Prompts = None,
    prompt_key: options.PromptKey = None,
    time_limit: Annotated[
        float,
        options.option(
            "--time-limit",
            metavar="MINUTES",
            help="Time to generate text and train, including earlier runs that are continued.",
        ),
    ] = 10.0,
    output: Annotated[
        Path | None,
        options.option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write. Default: named after the kind.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Train the checkpoint of a drafter on text that the model generates.

    Interrupted training leaves a training checkpoint next to its output; the same command
    continues from it.

    Example: skipopt train heads builtin --arch ffn --time-limit 10 -o heads.safetensors
    """
    check_kind(kind)
    check_kind_options(ctx, kind)
    count, flag = (num_heads, "num-heads") if kind == HEADS else (num_tokens, "num-tokens")
    check_numbers(time_limit, count, flag)
    check_seed(seed)
    check_architecture(arch)
    request = TrainRequest(kind, arch, count, time_limit, output or OUTPUTS[kind], seed)
    check_output(request.output)
    given = read_prompts(prompts, prompt_key, terminal)
    return train_drafter(request, model, profile, given, loading, terminal)


def check_kind(kind: str) -> None:
    """Raise UsageError for an unknown kind."""
    if kind not in KINDS:
        raise UsageError(f"cannot train {kind!r}", hint=f"use one of {', '.join(KINDS)}")


def check_kind_options(ctx: typer.Context, kind: str) -> None:
    """Check that no flag belongs to another kind; a config file may have options of all kinds.

    Raises:
        UsageError: a flag belongs to another kind.
    """
    for name, other in KIND_OF.items():
        source = ctx.get_parameter_source(name)
        if kind != other and source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"`train {kind}` takes no --{name.replace('_', '-')}",
                hint=f"leave it out, or train {other}",
            )


def check_numbers(minutes: float, count: int, flag: str) -> None:
    """Raise UsageError if the time or the number of heads or tokens is out of range."""
    if not 0 < minutes < float("inf"):
        raise UsageError(f"time-limit must be finite and above 0 minutes, not {minutes:g}")
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"{flag} must be 1 to {MAX_COUNT}, not {count}", hint=f"try --{flag} 4")


def check_architecture(name: str) -> None:
    """Raise UsageError for an unknown architecture of heads."""
    if name not in ARCHITECTURES:
        raise UsageError(
            f"unknown architecture {name!r}", hint=f"use one of {', '.join(ARCHITECTURES)}"
        )


def check_output(output: Path) -> None:
    """Check before training that the output files can be written.

    Raises:
        OutputError: the file, or the training checkpoint next to it, cannot be written.
        UsageError: the file does not end with .safetensors.
    """
    from skipopt.files import check_writable

    if output.suffix != ".safetensors":
        raise UsageError(
            f"the output is {str(output)!r}, expected a .safetensors file",
            hint=f"-o {output.with_suffix('.safetensors')}",
        )
    check_writable(output)
    check_writable(output.with_suffix(".checkpoint"))


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train, for how long, and where to write it."""

    kind: str
    arch: str
    count: int
    minutes: float
    output: Path
    seed: int


def train_drafter(
    request: TrainRequest,
    model: str | None,
    profile_spec: str | None,
    given: PromptSet | None,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Load the model, train, and print the result; held-out prompts are not used."""
    from skipopt.detokenizer import encode_prompts
    from skipopt.training.self_text import make_pool

    target, profile = load_with_profile(model, profile_spec, loading, terminal)
    prompts = prompts_for(given, target, terminal)
    texts = prompts.calibration + prompts.validation
    mask = None if profile is None else profile.skip_mask
    pool = make_pool(target, encode_prompts(target.tokenizer, texts), request.seed)
    checkpoint = request.output.with_suffix(".checkpoint")
    try:
        facts = run_training(request, target, pool, mask, terminal)
    except KeyboardInterrupt:
        if checkpoint.exists():
            terminal.note(f"interrupted; the same command continues from {checkpoint}")
        raise
    document = {
        "kind": request.kind,
        "file": str(request.output),
        "model": target.model_id,
        "fingerprint": target.fingerprint,
        **facts,
    }
    terminal.result(document, summary(request, facts))
    return ExitCode.OK


def run_training(
    request: TrainRequest, target: Target, pool: Pool, mask: SkipMask | None, terminal: Output
) -> dict[str, Any]:
    """Train, write the checkpoint, and return the metrics of the training."""
    from skipopt.training import heads, mask_tokens

    count, output, show = request.count, request.output, terminal.progress
    if request.kind == HEADS:
        settings = heads.default_settings(target, request.arch, count)
        config = heads.default_config(request.minutes, request.seed)
        return heads.train_heads(target, pool, settings, config, output, show)
    config = mask_tokens.default_config(request.minutes, request.seed)
    train_tokens, rank = mask_tokens.train_mask_tokens, mask_tokens.RANK
    return train_tokens(target, pool, count, rank, mask, config, output, show)


def summary(request: TrainRequest, facts: dict[str, Any]) -> str:
    """A summary of the training in two lines."""
    each, chain = (
        " ".join(f"{share:.2f}" for share in facts[key])
        for key in ("acceptance", "chain_acceptance")
    )
    return (
        f"held-out acceptance by position {each}, of whole chains {chain}: "
        f"{facts['tokens_per_forward']:.2f} tokens per target forward\n"
        f"wrote {request.output}: {facts['steps']} steps on {facts['tokens']} tokens "
        f"in {facts['seconds']:.0f} s"
    )
