"""`skipopt run`: generate text, with a profile or plain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.decoding_method import check_method, note_plain
from skipopt.cli.draft_memory import check_memory, read_memory, save_memory_at_end
from skipopt.cli.model_options import ModelOptions, load_with_profile
from skipopt.cli.output import Output
from skipopt.cli.run_prompt import RunPrompt, encode, read_prompt
from skipopt.cli.text_output import (
    Request,
    comparison_summary,
    end_line,
    note_compilation,
    note_empty_text,
    note_memory,
    print_generated,
    print_text,
    round_printer,
    summary,
)
from skipopt.cli.tune_online import TuneOptions, read_tuning, save_at_end, tuning_summary
from skipopt.decoding.options import DecodingOptions
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode
from skipopt.repetition import repeats_from

if TYPE_CHECKING:
    from skipopt.decoding.logprobs import LogprobRecorder
    from skipopt.decoding.text import GeneratedText, TextPiece
    from skipopt.measurement.compare import Comparison
    from skipopt.prompts import Prompt

REPEATS = (
    "the text repeats itself from token {token} on, which overstates the speedup; "
    "`skipopt bench` leaves such text out"
)


@command
def run(
    *,
    model: options.Model = None,
    profile: options.Profile = None,
    source: RunPrompt,
    decoding: DecodingOptions,
    compare: Annotated[
        bool,
        options.option("--compare", help="Compare speed and tokens with plain decoding."),
    ] = False,
    show_rounds: Annotated[
        bool,
        options.option(
            "--show-rounds", help="Show the drafted and accepted tokens of each round."
        ),
    ] = False,
    tune_online: Annotated[
        bool,
        options.option(
            "--tune-online",
            help="Tune mask, γ and τ while generating; the text stays the same.",
        ),
    ] = False,
    tune_overhead: Annotated[
        float | None,
        options.option(
            "--tune-overhead",
            metavar="R",
            help="Share of the time that --tune-online may take. Default: 0.01.",
            show_default=False,
        ),
    ] = None,
    save_profile: Annotated[
        Path | None,
        options.option(
            "--save-profile",
            metavar="FILE",
            help="Write a profile of what --tune-online found.",
        ),
    ] = None,
    memory: Annotated[
        Path | None,
        options.option(
            "--memory",
            metavar="FILE",
            help="Copy from earlier texts in FILE too, and add this one, prompt included.",
        ),
    ] = None,
    logprobs: Annotated[
        int | None,
        options.option(
            "--logprobs",
            metavar="N",
            min=0,
            help="With --json: the log-probability of each token under the model, and the N "
            "likeliest tokens in its place.",
            show_default=False,
        ),
    ] = None,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Generate text, with a profile or plain.

    The text is streamed to stdout (with --no-progress: printed at the end), a summary goes to
    stderr. One final newline of a prompt from a file or stdin is removed.

    Example: skipopt run --profile profile.yaml --prompt "def main():"
    """
    check_method(decoding.method, profile, tune_online)
    tuning = read_tuning(tune_online, tune_overhead, save_profile)
    remembered = read_memory(memory)
    recorder = make_recorder(logprobs, terminal, compare)
    given = read_prompt(source, terminal.note)
    request = make_request(model, profile, loading, terminal, given, source, decoding, tuning)
    request = replace(request, recorder=recorder)
    check_memory(remembered, memory, request.target)
    request = replace(request, memory=remembered)
    with (
        save_at_end(request, save_profile, terminal),
        save_memory_at_end(request.memory, memory, terminal),
    ):
        if compare:
            return run_comparison(request, terminal, profile, show_rounds)
        return run_once(request, terminal, profile, show_rounds)


def make_recorder(top: int | None, output: Output, compare: bool) -> LogprobRecorder | None:
    """What takes in log-probabilities, if they are asked for.

    Raises:
        UsageError: they are not shown, or several texts are decoded.
    """
    from skipopt.decoding.logprobs import LogprobRecorder

    if top is None:
        return None
    if not output.json:
        raise UsageError("--logprobs is for --json", hint="add --json")
    if compare:
        raise UsageError("--logprobs and --compare exclude each other", hint="leave one out")
    return LogprobRecorder(top)


def make_request(
    model: str | None,
    profile_spec: str | None,
    loading: ModelOptions,
    output: Output,
    prompt: Prompt,
    source: RunPrompt,
    decoding: DecodingOptions,
    tuning: TuneOptions,
) -> Request:
    """Load model and profile, encode the prompt, and start online tuning if asked for."""
    from skipopt.decoding.api import new_online_state, resolve_method
    from skipopt.decoding.text_prompt import ending_turns
    from skipopt.online.config import OnlineConfig

    target, profile = load_with_profile(model, profile_spec, loading, output)
    ids = encode(target, prompt, source)
    if source.is_chat:
        target = ending_turns(target)
    method = str(resolve_method(profile, decoding.method, tuning.on))
    request = Request(target, ids, profile, replace(decoding, method=method), chat=source.is_chat)
    if tuning.on:
        config = OnlineConfig(overhead=tuning.overhead, seed=decoding.seed)
        state = new_online_state(target, profile=profile, method=method, config=config)
        return replace(request, online_state=state)
    note_plain(profile, decoding.method, output)
    return request


def stream(request: Request) -> Iterator[TextPiece]:
    """Decode the request."""
    from skipopt.decoding.text import stream_generate

    return stream_generate(
        request.target,
        request.prompt,
        request.options,
        profile=request.profile,
        online_state=request.online_state,
        memory=request.memory,
        recorder=request.recorder,
    )


def run_once(request: Request, output: Output, spec: str | None, show_rounds: bool) -> int:
    """Decode once; text or rounds are shown as they come."""
    from skipopt.decoding.text import GeneratedText

    if output.json or output.no_progress:
        made = GeneratedText.of(list(stream(request)))
    else:
        made = GeneratedText.of(list(_shown(request, show_rounds)))
    if output.json:
        output.result(document(made, request, spec, show_rounds))
    elif output.no_progress:
        print_generated(made, request, show_rounds)
    elif not show_rounds:
        end_line(made)
    output.note(summary(made, request))
    print_notes(made, request, output)
    return ExitCode.OK


def _shown(request: Request, show_rounds: bool) -> Iterator[TextPiece]:
    show = round_printer(request) if show_rounds else None
    for piece in stream(request):
        if show is None:
            print_text(piece.text)
        else:
            show(piece.round)
        yield piece


def run_comparison(request: Request, output: Output, spec: str | None, show_rounds: bool) -> int:
    """Decode plainly and with the method, in pairs.

    Returns:
        Exit status 5 if greedy tokens differ in float32, or by more than the numerical margin.

    Raises:
        UsageError: the method is plain decoding.
    """
    if request.options.method == "plain":
        if request.profile is not None and not request.profile.enabled:
            output.note("there is nothing to compare with")
            return run_once(request, output, spec, show_rounds)
        raise UsageError(
            "--compare needs a method to compare plain decoding with",
            hint="give --profile, or --method suffix",
        )
    found = compare_with_plain(request)
    if request.memory is not None:
        request.memory.add([*request.prompt, *found.method.tokens])
    plain, made = (_generated(found, request, is_plain) for is_plain in (True, False))
    if output.json:
        facts = document(made, request, spec, show_rounds)
        facts["compare"] = found.to_json()
        output.result(facts)
    else:
        print_generated(made, request, show_rounds)
    output.note(summary(plain, request))
    output.note(summary(made, request))
    print_notes(made, request, output)
    output.note(comparison_summary(found, request))
    if (start := repeats_from(made.tokens)) is not None:
        output.note(REPEATS.format(token=start + 1))
    return ExitCode.OK if is_lossless(found, request.target.dtype) else ExitCode.NOT_LOSSLESS


def is_lossless(found: Comparison, dtype: str) -> bool:
    """Whether greedy tokens are the same; below float32, within the numerical margin."""
    if found.differs_at is None:
        return True
    within = found.lossless is None or found.lossless.verdict != "failed"
    return within and dtype != "float32"


def compare_with_plain(request: Request) -> Comparison:
    """Time the request against plain decoding."""
    from skipopt.measurement.compare import compare

    return compare(
        request.target,
        request.prompt,
        request.options,
        profile=request.profile,
        online_state=request.online_state,
        memory=request.memory,
    )


def _generated(found: Comparison, request: Request, is_plain: bool) -> GeneratedText:
    from skipopt.decoding.text import GeneratedText, TextStatistics

    decoding = found.plain if is_plain else found.method
    statistics = TextStatistics(
        "plain" if is_plain else str(request.options.method),
        len(request.prompt),
        decoding.prefill_seconds,
        decoding.decode_seconds,
        time_to_first_token=decoding.timeline[0].seconds if decoding.timeline else None,
    )
    tokenizer, stop = request.target.tokenizer, request.options.stop
    return GeneratedText.of_rounds(tokenizer, decoding.rounds, stop, statistics)


def document(
    made: GeneratedText, request: Request, spec: str | None, show_rounds: bool
) -> dict[str, Any]:
    """The document of `run --json`."""
    from skipopt.decoding.logprobs import logprobs_json

    target = request.target
    facts = made.to_json() | {"profile": spec, "runtime": target.runtime.name}
    facts["memory"] = asdict(target.memory)
    facts["graph_capture"] = {
        "steps": target.runtime.step_caches.num_captured,
        "seconds": target.runtime.step_caches.capture_seconds,
    }
    if request.online_state is not None:
        facts["tuning"] = request.online_state.tuning_summary().to_json()
    if (recorder := request.recorder) is not None:
        found = recorder.tokens[: len(made.tokens)]
        facts["logprobs"] = logprobs_json(found, target.tokenizer)
    if show_rounds:
        keys = ("drafted", "parents", "path", "sources", "accepted", "emitted", "put_off")
        facts["rounds"] = [{key: getattr(r, key) for key in keys} for r in made.rounds]
    return facts


def print_notes(made: GeneratedText, request: Request, output: Output) -> None:
    """Print a hint, memory, compilation and tuning, where there is something to say."""
    note_empty_text(made, request, output)
    note_memory(request.target, output)
    note_compilation(request.target, output)
    if request.online_state is not None:
        output.note(tuning_summary(request.online_state))
