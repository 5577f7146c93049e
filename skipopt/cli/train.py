"""`skipopt train`: train what a drafter needs, or the built-in model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipopt.cli import options
from skipopt.cli.output import Output
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.cli.loading import ModelOptions
    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.training.self_text import Pool

HEADS, MASK_TOKENS = KINDS = ("heads", "mask-tokens")
SHAPES = ("ffn", "medusa")
MOST = 64
MINUTES = {HEADS: 10.0, MASK_TOKENS: 10.0}
OUTPUTS = {
    HEADS: Path("heads.safetensors"),
    MASK_TOKENS: Path("mask-tokens.safetensors"),
}
# Options that mean nothing for other kinds.
ONLY_FOR = {
    "model": (HEADS, MASK_TOKENS),
    "shape": (HEADS,),
    "count": (HEADS, MASK_TOKENS),
    "profile": (MASK_TOKENS,),
    "prompts": (HEADS, MASK_TOKENS),
    "seed": (HEADS, MASK_TOKENS),
}


def train(
    ctx: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="`heads` (blockwise drafting) or `mask-tokens` (Spec-Drafter).",
        ),
    ],
    model: options.Model = None,
    shape: Annotated[
        str,
        options.option(
            "--shape", metavar="NAME", help="Of heads: ffn (one network) or medusa (one each)."
        ),
    ] = "ffn",
    count: Annotated[
        int,
        options.option("--count", metavar="K", help="Heads, or mask tokens: how far they see."),
    ] = 4,
    profile: Annotated[
        str | None,
        options.option(
            "--profile",
            "-p",
            metavar="FILE",
            help="Its mask thins the model that fills mask tokens. Default: the whole model.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        options.option(
            "--prompts",
            metavar="FILE",
            help="What the model writes from; their held-out half is left alone. "
            "Default: a built-in set.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        options.option(
            "--minutes",
            metavar="M",
            help="Time for writing and learning; the checkpoint's counts. Default: 10.",
            show_default=False,
        ),
    ] = None,
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
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    runtime: options.Runtime = "auto",
    device_map: options.DeviceMap = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Train what a drafter needs, on text that the model writes itself; or the built-in model.

    An interrupted training leaves a checkpoint beside its output; the same command goes on.

    Example: skipopt train heads builtin --shape ffn --minutes 10 -o heads.safetensors
    """
    from skipopt.cli.loading import ModelOptions

    say = Output(json, quiet, verbose, no_progress)
    check_kind(kind)
    refuse_foreign(ctx, kind)
    minutes = MINUTES[kind] if minutes is None else minutes
    output = output or OUTPUTS[kind]
    check_numbers(minutes, count)
    loading = ModelOptions(
        device, dtype, threads, revision, trust_remote_code, runtime, device_map
    )
    check_shape(shape)
    check_file(output)
    request = Request(kind, model, shape, count, profile, prompts, minutes, output, seed)
    return train_drafter(request, loading, say)


def check_kind(kind: str) -> None:
    """Raises UsageError for a kind that there is not."""
    if kind not in KINDS:
        raise UsageError(f"cannot train {kind!r}", hint=f"use one of {', '.join(KINDS)}")


def refuse_foreign(ctx: typer.Context, kind: str) -> None:
    """Options typed for another kind; a config file may hold those of all kinds.

    Raises:
        UsageError: one of them is there.
    """
    for name, kinds in ONLY_FOR.items():
        source = ctx.get_parameter_source(name)
        if kind not in kinds and source is not None and source.name == "COMMANDLINE":
            word = "model" if name == "model" else f"--{name}"
            raise UsageError(
                f"`train {kind}` takes no {word}",
                hint=f"leave it out, or train {' or '.join(kinds)}",
            )


def check_numbers(minutes: float, count: int) -> None:
    """Raises UsageError for no time, or a number of heads that nobody means."""
    if not 0 < minutes < float("inf"):
        raise UsageError(f"minutes must be above 0, not {minutes:g}")
    if not 1 <= count <= MOST:
        raise UsageError(f"count must lie in 1 … {MOST}, not {count}", hint="try --count 4")


def check_shape(shape: str) -> None:
    """Raises UsageError for a shape that there is not."""
    if shape not in SHAPES:
        raise UsageError(
            f"there are no heads of shape {shape!r}", hint=f"use one of {', '.join(SHAPES)}"
        )


def check_file(output: Path) -> None:
    """Fail now rather than after the training.

    Raises:
        OutputError: the file, or the checkpoint beside it, cannot be written.
        UsageError: a name that does not tell what will be in it.
    """
    from skipopt.files import check_writable

    if output.suffix != ".safetensors":
        raise UsageError(
            f"the output is {str(output)!r}, expected a .safetensors file",
            hint=f"-o {output.with_suffix('.safetensors')}",
        )
    check_writable(output)
    check_writable(output.with_suffix(".checkpoint"))


# Drafters


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be trained, and where it goes."""

    kind: str
    model: str | None
    shape: str
    count: int
    profile: str | None
    prompts: Path | None
    minutes: float
    output: Path
    seed: int


def train_drafter(request: Request, loading: ModelOptions, say: Output) -> int:
    """Heads or mask tokens, of a model as it is."""
    from skipopt.cli.loading import load_with_profile
    from skipopt.cli.workload import encode_prompts
    from skipopt.prompts import load_prompts
    from skipopt.training.self_text import make_pool

    texts = load_prompts(request.prompts).calibration
    target, profile = load_with_profile(request.model, request.profile, loading, say)
    body = None if profile is None else profile.skip_mask
    pool = make_pool(target, encode_prompts(target, texts), request.seed)
    checkpoint = request.output.with_suffix(".checkpoint")
    try:
        facts = run_training(request, target, pool, body, say)
    except KeyboardInterrupt:
        if checkpoint.exists():
            say.note(f"interrupted; the same command goes on from {checkpoint}")
        raise
    document = {
        "kind": request.kind,
        "file": str(request.output),
        "model": target.model_id,
        "fingerprint": target.fingerprint,
        **facts,
    }
    say.result(document, summary(request, facts))
    return 0


def run_training(
    request: Request, target: Target, pool: Pool, body: SkipMask | None, say: Output
) -> dict[str, Any]:
    """The facts of the training."""
    from skipopt.training import heads, mask_tokens

    count, output, show = request.count, request.output, say.progress
    if request.kind == HEADS:
        settings = heads.default_settings(target, request.shape, count)
        plan = heads.default_config(request.minutes, request.seed)
        return heads.train_heads(target, pool, settings, plan, output, show)
    plan = mask_tokens.default_config(request.minutes, request.seed)
    train_tokens, rank = mask_tokens.train_mask_tokens, mask_tokens.RANK
    return train_tokens(target, pool, count, rank, body, plan, output, show)


def summary(request: Request, facts: dict[str, Any]) -> str:
    """What the result is worth, in two lines."""
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
