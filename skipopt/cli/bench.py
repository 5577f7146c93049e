"""`skipopt bench`: every method side by side on the same prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from skipopt.bench.timing import DEFAULT_REPEATS
from skipopt.cli import options
from skipopt.cli.output import Output
from skipopt.cli.printing import note_compiled, note_memory
from skipopt.errors import UsageError
from skipopt.methods import METHODS

OWN = "profile"  # stands for the method of the profile

if TYPE_CHECKING:
    from skipopt.bench.methods_table import BenchResult
    from skipopt.profile import Profile


def bench(
    model: options.Model = None,
    profile: options.Profile = None,
    prompts: options.Prompts = None,
    methods: Annotated[
        str | None,
        options.option(
            "--methods",
            metavar="A,B,…",
            help=f"{', '.join(METHODS)}, with options behind the name as in lookahead:window=7, "
            "profile for the profile's own, and transformers': hf-generate, hf-early-exit, "
            "hf-prompt-lookup. Default: plain, where there is a profile its own and layer-skip, "
            "prompt-lookup, hf-generate, hf-prompt-lookup.",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[
        int,
        options.option(
            "--repeats", metavar="N", min=1, help="How often each method decodes each prompt."
        ),
    ] = DEFAULT_REPEATS,
    max_new_tokens: options.MaxNewTokens = 64,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: options.Seed = 0,
    output: Annotated[
        Path | None,
        options.option(
            "--output", "-o", metavar="FILE", help="Write the JSON there, a .md table beside it."
        ),
    ] = None,
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
    """Compare every method on the same held-out prompts: paired, interleaved, text by text.

    Example: skipopt bench --profile profile.yaml -o results/bench.json
    """
    from skipopt.bench.methods_table import bench as run_bench
    from skipopt.cli.loading import ModelOptions, load_with_profile
    from skipopt.cli.progress import Display
    from skipopt.cli.workload import encode_prompts
    from skipopt.prompts import load_prompts
    from skipopt.reporting.tables import bench_table
    from skipopt.sampling import SamplingOptions

    sampling = SamplingOptions(temperature, top_k, top_p, seed)
    say = Output(json, quiet, verbose, no_progress)
    names = None if methods is None else split_names(methods, profile is not None)
    check_output(output)
    texts = load_prompts(prompts).held_out
    loading = ModelOptions(
        device, dtype, threads, revision, trust_remote_code, runtime, device_map
    )
    target, found = load_with_profile(model, profile, loading, say)
    if found is not None and not found.enabled and (names is None or OWN in names):
        say.note(f"the profile says to decode plainly: {found.reason}")
    with Display(say) as display:
        result = run_bench(
            target,
            encode_prompts(target, texts),
            own_by_name(names or default_methods(found), found),
            found,
            max_new_tokens=max_new_tokens,
            repeats=repeats,
            options=sampling,
            on_progress=display.counter("bench", " decodings"),
        )
    say.result(result.to_json(), bench_table(result))
    note_memory(target, say)
    note_compiled(target, say)
    if output is not None:
        write_result(result, output)
        say.note(f"wrote {output} and {output.with_suffix('.md')}")
    return 0


def split_names(methods: str, has_profile: bool) -> list[str]:
    """The names in `A,B,…`.

    Raises:
        UsageError: one is unknown, there are none, or it is the method of a profile that is not
            given.
    """
    from skipopt.bench.runners import PEERS
    from skipopt.methods import parse_method

    names = [name for part in methods.split(",") if (name := part.strip())]
    known = ", ".join((*METHODS, OWN, *PEERS))
    if not names:
        raise UsageError("--methods names none", hint=f"use some of {known}")
    for name in names:
        if name == OWN and not has_profile:
            raise UsageError(
                "the method `profile` is that of a profile, and none is given",
                hint="give one with --profile, made by `skipopt search`",
            )
        if name.partition(":")[0] not in (*METHODS, OWN, *PEERS):
            raise UsageError(f"unknown method {name!r}", hint=f"use some of {known}")
        if name not in (OWN, *PEERS):
            parse_method(name)
    return names


def default_methods(profile: Profile | None) -> list[str]:
    """What can be run without asking for more."""
    own = [] if profile is None else [OWN]
    skipping = ["layer-skip"] if profile is not None and profile.skip_mask.skipped else []
    return ["plain", *own, *skipping, "prompt-lookup", "hf-generate", "hf-prompt-lookup"]


def own_by_name(names: list[str], profile: Profile | None) -> list[str]:
    """With the profile's own method in the place of `profile`."""
    from skipopt.decoding.api import resolve_method

    return [str(resolve_method(profile, None)) if name == OWN else name for name in names]


def check_output(output: Path | None) -> None:
    """Fail now rather than after the measurement.

    Raises:
        OutputError: a result could not be written.
        UsageError: the JSON would be overwritten by the table.
    """
    from skipopt.files import check_writable

    if output is None:
        return
    if output.suffix == ".md":
        raise UsageError(f"{output} is for the JSON", hint="name it .json; the .md comes with it")
    for path in (output, output.with_suffix(".md")):
        check_writable(path)


def write_result(result: BenchResult, output: Path) -> None:
    """The JSON, and a table of it beside."""
    from json import dumps

    from skipopt.files import write_atomically
    from skipopt.reporting.tables import markdown_table

    write_atomically(output, dumps(result.to_json(), ensure_ascii=False, indent=1) + "\n")
    write_atomically(output.with_suffix(".md"), markdown_table(result))
