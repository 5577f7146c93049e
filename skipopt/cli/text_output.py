"""Output of `skipopt run`: text and rounds on stdout, lines of figures on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.cli.streams import OutputClosed, writing

if TYPE_CHECKING:
    from skipopt.cli.output import Output
    from skipopt.decoding.logprobs import LogprobRecorder
    from skipopt.decoding.options import DecodingOptions
    from skipopt.decoding.text import GeneratedText
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.measurement.compare import Comparison
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState
    from skipopt.profile import Profile
    from skipopt.rounds import Round


@dataclass(frozen=True, slots=True)
class Request:
    """What `run` decodes.

    Attributes:
        prompt: token ids.
        options: with the method that was resolved.
        online_state: tune the method meanwhile.
        chat: the prompt went through the model's chat template.
        memory: earlier texts to copy from.
        recorder: takes in log-probabilities.
    """

    target: Target
    prompt: Sequence[int]
    profile: Profile | None
    options: DecodingOptions
    online_state: OnlineState | None = None
    chat: bool = False
    memory: DraftMemory | None = None
    recorder: LogprobRecorder | None = None


def summary(made: GeneratedText, request: Request) -> str:
    """One line: method, speed, acceptance, stop reason and runtime."""
    from skipopt.decoding.api import profile_draft_config
    from skipopt.methods import parse_method

    figures, total = made.statistics, made.statistics.rounds
    parts = [
        f"{figures.method}: {total.new_tokens} tokens in {figures.seconds:.2f} s",
        f"{figures.tokens_per_second:.1f} tokens/s",
        f"prefill {figures.prefill_seconds:.2f} s",
    ]
    if total.acceptance_rate is not None:
        parts.append(f"acceptance rate {total.acceptance_rate:.2f}")
    spec = parse_method(figures.method)
    drafts = total.drafted > 0  # else quantized kernels would be timed for the summary alone
    draft_config = profile_draft_config(request.target, spec, request.profile) if drafts else None
    if total.put_off_tokens:
        parts.append(f"{total.put_off_tokens} tokens before drafts pay back their preparation")
    if draft_config:
        parts.append(f"drafts with {draft_config}")
    if figures.method != "plain":
        parts.append(f"mean acceptance length {total.mean_acceptance_length:.2f}")
    parts += [f"stopped by {total.stop_reason}", f"runtime {request.target.runtime.name}"]
    return " · ".join(parts)


def note_empty_text(made: GeneratedText, request: Request, output: Output) -> None:
    """Print a hint if a chat model has ended its text at once, as it may without its template."""
    from skipopt.detokenizer import template_text

    is_empty = not made.text.strip() and made.statistics.rounds.stop_reason != "stop"
    if is_empty and not request.chat and template_text(request.target.tokenizer):
        output.note("hint: the text is empty; the model has a chat template: try --chat")


def note_memory(target: Target, output: Output) -> None:
    """Print a line if memory is used for more than the model's own weights."""
    memory = target.memory
    if memory.extra:
        output.note(f"memory: {memory}")


def note_compilation(target: Target, output: Output) -> None:
    """Print a line if steps were compiled."""
    pool = target.runtime.step_caches
    if pool.inductor and pool.num_captured:
        steps = "step" if pool.num_captured == 1 else "steps"
        output.note(f"compiled {pool.num_captured} {steps} in {pool.capture_seconds:.1f} s")


def comparison_summary(found: Comparison, request: Request) -> str:
    """One line: the speedups, and whether the tokens are the same."""
    from skipopt.reporting.cells import by_length

    low, high = min(found.pair_ratios), max(found.pair_ratios)
    parts = [f"decoding speedup {found.speedup:.2f}× (pairs {low:.2f}×, {high:.2f}×)"]
    parts.append(f"end to end {found.end_to_end.whole.median:.2f}×")
    if found.end_to_end.at:
        parts.append(f"by new tokens {by_length(found.end_to_end)}")
    if found.first_text is not None:
        parts.append(f"as a first text {found.first_text.whole.median:.2f}×")
    return " · ".join([*parts, _compared_tokens(found, request)])


def _compared_tokens(found: Comparison, request: Request) -> str:
    if not request.options.sampling.greedy:
        return "sampled tokens are not compared"
    if found.differs_at is None:
        return "the same tokens"
    differing = f"tokens differ from position {found.differs_at} on"
    if found.lossless is None or found.lossless.margin is None:
        return differing
    verdict = "within" if found.lossless.verdict == "within-margin" else "outside"
    return (
        f"{differing}, {verdict} the numerical margin of {found.lossless.margin:.2g} "
        f"in {request.target.dtype}"
    )


def print_text(text: str) -> None:
    """Print a piece of text at once.

    Raises:
        OutputClosed: nobody reads it.
    """
    with writing():
        sys.stdout.write(text)
        sys.stdout.flush()


def end_line(made: GeneratedText) -> None:
    """Print a newline unless the text ends with one."""
    if not made.text.endswith("\n"):
        print_text("\n")


def print_generated(made: GeneratedText, request: Request, show_rounds: bool) -> None:
    """Print a finished text, or its rounds; nothing where nobody reads it."""
    with suppress(OutputClosed):
        if show_rounds:
            show = round_printer(request)
            for each in made.rounds:
                show(each)
        else:
            print_text(made.text)
            end_line(made)


def round_printer(request: Request) -> Callable[[Round], None]:
    """A function that prints each round, after a line that explains the symbols.

    Both raise OutputClosed where nobody reads it.
    """
    from skipopt.cli.output import make_console, without_controls
    from skipopt.reporting.rounds import legend, round_lines

    console = make_console()
    with writing():
        console.print(legend())
    numbers = iter(range(1, 1 << 60))
    decode = request.target.tokenizer.decode

    def show(each: Round) -> None:
        with writing():
            for line in round_lines(next(numbers), each, decode):
                console.print(without_controls(line))

    return show
