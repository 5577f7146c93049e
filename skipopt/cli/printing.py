"""How `skipopt run` shows what was generated: text and rounds on stdout, figures as lines.

Knows nothing of how it was decoded.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipopt.cli.generating import Comparison, Generation, OnRound, Request
    from skipopt.cli.output import Output
    from skipopt.detokenizer import TextRound
    from skipopt.models.target import Target


def summary(made: Generation, request: Request) -> str:
    """One line of figures."""
    from skipopt.decoding.api import profile_draft_config
    from skipopt.methods import parse_method

    facts = made.to_json()
    parts = [
        f"{made.method}: {facts['new_tokens']} tokens in {made.seconds:.2f} s",
        f"{made.tokens_per_second:.1f} tokens/s",
        f"prefill {made.prefill_seconds:.2f} s",
    ]
    if facts["acceptance_rate"] is not None:
        parts.append(f"acceptance rate {facts['acceptance_rate']:.2f}")
    draft_config = profile_draft_config(request.target, parse_method(made.method), request.profile)
    if draft_config and request.online_state is None:  # which tunes a mask alone
        parts.append(f"drafts with {draft_config}")
    if made.method != "plain":
        parts.append(f"mean acceptance length {facts['mean_acceptance_length']:.2f}")
    parts += [f"stopped by {facts['stop_reason']}", f"runtime {request.target.runtime.name}"]
    return " · ".join(parts)


def note_memory(target: Target, output: Output) -> None:
    """One line, where there is anything but the model's own weights."""
    memory = target.memory
    if memory.extra:
        output.note(f"memory: {memory}")


def note_compiled(target: Target, output: Output) -> None:
    """What was waited for, where steps were compiled."""
    pool = target.runtime.step_caches
    if pool.inductor and pool.num_captured:
        steps = "step" if pool.num_captured == 1 else "steps"
        output.note(f"compiled {pool.num_captured} {steps} in {pool.capture_seconds:.1f} s")


def comparison_summary(found: Comparison, request: Request) -> str:
    low, high = sorted(found.ratios)
    speed = f"speedup {found.speedup:.2f}× (pairs {low:.2f}×, {high:.2f}×)"
    if not request.options.greedy:
        return f"{speed} · tokens are not compared: they are sampled"
    if found.differs_at is None:
        return f"{speed} · the same tokens"
    differing = f"{speed} · tokens differ from position {found.differs_at} on"
    if request.target.dtype == "float32":
        return differing
    return f"{differing}: in {request.target.dtype} that may be rounding; see `skipopt check`"


def print_text(each: Any) -> None:
    sys.stdout.write(each.text)
    sys.stdout.flush()


def end_line(made: Generation) -> None:
    if not made.text.endswith("\n"):
        print(flush=True)


def print_made(made: Generation, request: Request, show_rounds: bool) -> None:
    from skipopt.detokenizer import TextRound

    if show_rounds:
        show = round_printer(request)
        for each in made.rounds:
            show(TextRound(each, ""))
    else:
        sys.stdout.write(made.text)
        end_line(made)


def round_printer(request: Request) -> OnRound:
    """Prints each round as a line, below a line that explains the symbols."""
    from skipopt.cli.output import make_console
    from skipopt.reporting.rounds import legend, round_lines

    console = make_console()
    console.print(legend())
    numbers = iter(range(1, 1 << 60))
    decode = request.target.tokenizer.decode

    def show(each: TextRound) -> None:
        for line in round_lines(next(numbers), each.round, decode):
            console.print(line)

    return show
