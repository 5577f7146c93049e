"""`skipopt run`: generate text, with a profile or plainly."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from skipopt.cli import options
from skipopt.cli.adapting import read_adapting, saving, tuning_summary
from skipopt.cli.output import Output
from skipopt.cli.printing import (
    comparison_summary,
    end_line,
    note_compiled,
    note_memory,
    print_made,
    print_text,
    round_printer,
    summary,
)
from skipopt.errors import PromptError, UsageError
from skipopt.exit_codes import ExitCode
from skipopt.repetition import repeats_from

if TYPE_CHECKING:
    from skipopt.cli.adapting import AdaptOptions
    from skipopt.cli.generating import Generation, Request
    from skipopt.cli.loading import ModelOptions
    from skipopt.sampling import SamplingOptions

ADAPTS_WITHOUT = "adapting drafts without the profile's levers ({levers}): it tunes mask, γ and τ"
NO_PROFILE = "no profile: decoding plainly (`skipopt search` makes one)"


def run(
    model: options.Model = None,
    profile: options.Profile = None,
    prompt: Annotated[
        str | None, options.option("--prompt", metavar="TEXT", help="The text to go on from.")
    ] = None,
    prompt_file: Annotated[
        Path | None,
        options.option(
            "--prompt-file", metavar="FILE", help="Read it from a file, else from stdin."
        ),
    ] = None,
    chat: Annotated[
        bool, options.option("--chat", help="Put it into the model's chat template.")
    ] = False,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: options.Seed = 0,
    stop: Annotated[
        list[str] | None,
        options.option(
            "--stop", metavar="TEXT", help="End the text before this text; may be given again."
        ),
    ] = None,
    method: options.Method = None,
    compare: Annotated[
        bool,
        options.option(
            "--compare", help="Time it against plain decoding, and compare the tokens."
        ),
    ] = False,
    show_rounds: Annotated[
        bool,
        options.option(
            "--show-rounds", help="Show what each round drafted and what was accepted."
        ),
    ] = False,
    adapt: Annotated[
        bool,
        options.option(
            "--adapt", help="Look for a better mask, γ and τ meanwhile; the text stays the same."
        ),
    ] = False,
    adapt_share: Annotated[
        float | None,
        options.option(
            "--adapt-share",
            metavar="S",
            help="With --adapt: share of the time that it may take. Default: 0.01.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        options.option(
            "--save", metavar="FILE", help="With --adapt: keep what was learned, as a profile."
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
    """Generate text, with a profile or plainly.

    The text goes to stdout as it is decided (with --no-progress: at the end), a summary to
    stderr. One final newline of a prompt that comes from a file or from stdin is dropped.

    Example: skipopt run --profile profile.yaml --prompt "def main():"
    """
    from skipopt.cli.loading import ModelOptions
    from skipopt.sampling import SamplingOptions

    output = Output(json, quiet, verbose, no_progress)
    sampling = SamplingOptions(temperature, top_k, top_p, seed)
    check_early(max_new_tokens, method, profile, stop or [], adapt)
    tuned = read_adapting(adapt, adapt_share, save)
    text = read_prompt(prompt, prompt_file)
    loading = ModelOptions(
        device, dtype, threads, revision, trust_remote_code, runtime, device_map
    )
    request = make_request(model, profile, loading, output, text, chat, method, sampling, tuned)
    request = replace(request, max_new_tokens=max_new_tokens, stops=tuple(stop or ()))
    with saving(request, save, output):
        if compare:
            return run_comparison(request, output, profile, show_rounds)
        return run_once(request, output, profile, show_rounds)


def check_early(
    max_new_tokens: int,
    method: str | None,
    profile: str | None,
    stops: list[str],
    adapt: bool = False,
) -> None:
    """What can be told to be wrong before a model is loaded.

    Raises:
        UsageError: it is.
    """
    from skipopt.decoding.api import resolve_method
    from skipopt.methods import parse_method

    if max_new_tokens < 1:
        raise UsageError(f"max-new-tokens must be 1 or more, not {max_new_tokens}")
    if "" in stops:
        raise UsageError("a stop text must not be empty", hint="leave out --stop")
    if profile is None or adapt:
        resolve_method(None, method, tuning=adapt)
    elif method is not None:
        parse_method(method)


def read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    """The prompt from the one place it is given in.

    Raises:
        UsageError: it is given twice, or not at all.
        PromptError: the file cannot be read, or the prompt is empty.
    """
    if prompt is not None and prompt_file is not None:
        raise UsageError("--prompt and --prompt-file exclude each other", hint="leave one out")
    if prompt is None and prompt_file is None and sys.stdin.isatty():
        raise UsageError("there is no prompt", hint="give --prompt, --prompt-file, or stdin")
    text = _read_text(prompt_file) if prompt is None else prompt
    if not text:
        raise PromptError("the prompt is empty", hint="give at least one token of text")
    return text


def _read_text(path: Path | None) -> str:
    name = "stdin" if path is None else repr(str(path))
    try:
        raw = sys.stdin.buffer.read() if path is None else path.read_bytes()
        return raw.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise PromptError(
            f"cannot read the prompt from {name}: {error.strerror}", hint="check the path"
        ) from None
    except UnicodeDecodeError:
        raise PromptError(
            f"the prompt in {name} is not text", hint="it must be text in UTF-8"
        ) from None


def make_request(
    model: str | None,
    spec: str | None,
    loading: ModelOptions,
    output: Output,
    text: str,
    chat: bool,
    method: str | None,
    sampling: SamplingOptions,
    adapt: AdaptOptions,
) -> Request:
    """Load model and profile, encode the prompt, and begin to adapt where that is asked for."""
    from skipopt.cli.generating import Request
    from skipopt.cli.loading import load_with_profile
    from skipopt.decoding.api import new_online_state, resolve_method
    from skipopt.detokenizer import encode_prompt
    from skipopt.online.config import OnlineConfig

    target, profile = load_with_profile(model, spec, loading, output)
    ids = encode_prompt(target.tokenizer, text, chat=chat)
    spec = str(resolve_method(profile, method, adapt.on))
    request = Request(target, ids, profile, spec, 1, sampling)
    if adapt.on:
        if profile is not None and profile.draft_config:
            output.note(ADAPTS_WITHOUT.format(draft_config=profile.draft_config))
        config = OnlineConfig(overhead=adapt.share, seed=sampling.seed)
        learned = new_online_state(target, profile=profile, method=spec, config=config)
        return replace(request, online_state=learned)
    if profile is None and method is None:
        output.note(NO_PROFILE)
    if profile is not None and not profile.enabled and method is None:
        output.note(f"the profile says to decode plainly: {profile.reason}")
    return request


def run_once(request: Request, output: Output, spec: str | None, show_rounds: bool) -> int:
    """Decode once, showing text or rounds as they come."""
    from skipopt.cli.generating import generate_text, unseen

    if output.json or output.no_progress:
        made = generate_text(request, unseen)
    else:
        made = generate_text(request, round_printer(request) if show_rounds else print_text)
    if output.json:
        output.result(document(made, request, spec, show_rounds))
    elif output.no_progress:
        print_made(made, request, show_rounds)
    elif not show_rounds:
        end_line(made)
    output.note(summary(made, request))
    note_memory(request.target, output)
    note_compiled(request.target, output)
    _note_adapted(request, output)
    return 0


def run_comparison(request: Request, output: Output, spec: str | None, show_rounds: bool) -> int:
    """Decode plainly and with the method; exit status 5 where float32 tokens differ."""
    from skipopt.cli.generating import compare

    if request.method == "plain" and request.profile is not None and not request.profile.enabled:
        output.note("there is nothing to compare it with")
        return run_once(request, output, spec, show_rounds)
    if request.method == "plain":
        raise UsageError(
            "--compare needs a method to compare plain decoding with",
            hint="give --profile, or --method prompt-lookup",
        )
    found = compare(request, replace(request, method="plain", online_state=None))
    if output.json:
        facts = document(found.made, request, spec, show_rounds)
        facts["compare"] = found.to_json()
        output.result(facts)
    else:
        print_made(found.made, request, show_rounds)
    output.note(summary(found.plain, request))
    output.note(summary(found.made, request))
    note_memory(request.target, output)
    note_compiled(request.target, output)
    _note_adapted(request, output)
    output.note(comparison_summary(found, request))
    if (start := repeats_from(found.made.tokens)) is not None:
        output.note(
            f"the text only repeats itself from token {start + 1} on: that flatters every draft; "
            "`skipopt bench` leaves such stretches out"
        )
    exact = found.differs_at is None or request.target.dtype != "float32"
    return ExitCode.OK if exact else ExitCode.NOT_LOSSLESS


def document(
    made: Generation, request: Request, spec: str | None, show_rounds: bool
) -> dict[str, Any]:
    """What `--json` prints."""
    target = request.target
    facts = made.to_json() | {"profile": spec, "runtime": target.runtime.name}
    facts["memory"] = asdict(target.memory)
    facts["captured"] = {
        "steps": target.runtime.step_caches.num_captured,
        "seconds": target.runtime.step_caches.capture_seconds,
    }
    if request.online_state is not None:
        facts["tuning"] = request.online_state.tuning_summary().to_json()
    if show_rounds:
        keys = ("drafted", "parents", "path", "sources", "accepted", "emitted")
        facts["rounds"] = [{key: getattr(r, key) for key in keys} for r in made.rounds]
    return facts


def _note_adapted(request: Request, output: Output) -> None:
    if request.online_state is not None:
        output.note(tuning_summary(request.online_state))
