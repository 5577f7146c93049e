"""`skipopt chat`: talk to a model, with a profile or plain."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.decoding_method import check_method, note_plain
from skipopt.cli.model_options import ModelOptions, load_with_profile
from skipopt.cli.output import Output, print_error, print_json
from skipopt.cli.run_prompt import ChatTemplate
from skipopt.cli.streams import writing
from skipopt.cli.text_output import end_line, print_text
from skipopt.decoding.options import ChatOptions
from skipopt.errors import PromptError
from skipopt.exit_codes import ExitCode
from skipopt.interrupts import one_interrupt_noted

if TYPE_CHECKING:
    from skipopt.decoding.chat import Chat
    from skipopt.decoding.text import GeneratedText, TextStatistics

PROMPT = "> "
COMMAND = re.compile("/[a-z]+")  # not a path such as /usr/bin
COMMANDS = (
    "commands: /exit, /reset (forget all turns), /system TEXT (begin anew with a system message)"
)
BASE_MODEL = (
    "the model has no chat template: it is a base model, which continues the text of all turns"
)
INTERRUPT = "interrupt"  # why an answer ended


@command
def chat(
    *,
    model: options.Model = None,
    profile: options.Profile = None,
    template: ChatTemplate,
    decoding: ChatOptions,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Talk to a model, with a profile or plain.

    Each line of stdin is a turn. Answers go to stdout, their speed to stderr; with --json each
    answer is one line of JSON. What was read in earlier turns is not read again. Ctrl-C stops an
    answer; a second one, or one at the prompt, ends the chat. Commands: /exit, /reset, /system
    TEXT, /help.

    Example: skipopt chat -p profile.yaml --system "Answer briefly."
    """
    check_method(decoding.method, profile)
    target, found = load_with_profile(model, profile, loading, terminal)
    from skipopt.decoding.chat import Chat  # after libraries were told to be silent

    talk = Chat(
        target,
        decoding,
        profile=found,
        system=template.system,
        template_kwargs=template.chat_template_kwargs,
    )
    note_plain(found, decoding.method, terminal)
    if not talk.has_template:
        terminal.note(BASE_MODEL)
    if sys.stdin.isatty():
        terminal.note(COMMANDS)
    session = Session(talk, profile, terminal)
    for line in read_lines():
        if not session.take(line):
            break
    return ExitCode.OK


def read_lines() -> Iterator[str]:
    """The lines of stdin, without their ends; a terminal is asked for each with a prompt.

    Raises:
        PromptError: a line is not text.
    """
    read = _ask if sys.stdin.isatty() else _read_line
    while True:
        try:
            line = read()
        except UnicodeDecodeError:
            raise PromptError("a line is not text", hint="it must be text in UTF-8") from None
        if line is None:
            return
        yield line


def _ask() -> str | None:
    """A line that is typed; None at the end (Ctrl-D)."""
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` then has a history
    try:
        if sys.stdout.isatty():
            return input(PROMPT)
        print(PROMPT, end="", file=sys.stderr, flush=True)  # stdout holds answers only
        return input()
    except EOFError:
        print(file=sys.stderr)
        return None


def _read_line() -> str | None:
    raw = sys.stdin.buffer.readline()
    return raw.decode("utf-8-sig").rstrip("\r\n") if raw else None


class Session:
    """A chat on a terminal or between pipes."""

    def __init__(self, chat: Chat, profile: str | None, output: Output) -> None:
        self._chat = chat
        self._profile = profile
        self._output = output
        self._turn = 0

    def take(self, line: str) -> bool:
        """Answer a line, or do what it says if it is a command; False: the chat ends.

        Raises:
            PromptError: the line cannot be answered, and nobody is there to type another.
        """
        name, _, rest = line.partition(" ")
        if not COMMAND.fullmatch(name):
            return self._answer_or_explain(line) if line.strip() else True
        if name == "/exit":
            return False
        if name == "/reset":
            self._chat.restart(self._chat.system)
            self._output.note("all turns are forgotten")
        elif name == "/system":
            self._chat.restart(rest.strip() or None)
            self._output.note(
                f"a new chat, {'with' if rest.strip() else 'without'} a system message"
            )
        else:
            known = "" if name == "/help" else f"there is no command {name}; "
            self._output.note(f"{known}{COMMANDS}")
        return True

    def _answer_or_explain(self, line: str) -> bool:
        try:
            self._answer(line)
        except PromptError as error:
            if not sys.stdin.isatty():
                raise
            print_error(str(error), error.hint)
        return True

    def _answer(self, line: str) -> None:
        from skipopt.measurement.plain_step import estimated_speedup

        streams = not (self._output.json or self._output.no_progress)
        with one_interrupt_noted() as interrupts:
            made = self._generate(line, streams, lambda: interrupts.is_noted)
            if streams:
                end_line(made)
            elif not self._output.json:
                print_text(made.text)
                end_line(made)
            quiet = self._output.quiet and not self._output.json
            cache, figures = self._chat.prefix_cache, made.statistics
            speedup = None if quiet else estimated_speedup(cache, figures)
        self._turn += 1
        if self._output.json:
            self._print_document(made, speedup)
        self._output.note(summary(figures, speedup))

    def _generate(self, line: str, streams: bool, stopped: Callable[[], bool]) -> GeneratedText:
        """The answer, up to where it is stopped."""
        from skipopt.decoding.text import GeneratedText

        pieces = []
        answer = self._chat.send(line)
        for piece in answer:
            pieces.append(piece)
            if streams:
                print_text(piece.text)
            if stopped():
                break
        answer.close()
        figures = self._chat.statistics
        assert figures is not None, "there was an answer"
        if pieces[-1].statistics is None:
            figures.rounds.stop_reason = INTERRUPT
        return GeneratedText(
            "".join(each.text for each in pieces), tuple(each.round for each in pieces), figures
        )

    def _print_document(self, made: GeneratedText, speedup: float | None) -> None:
        facts: dict[str, Any] = {"turn": self._turn, **made.to_json()}
        with writing():
            print_json(
                facts | {"estimated_speedup": speedup, "profile": self._profile}, indent=None
            )


def summary(figures: TextStatistics, speedup: float | None) -> str:
    """One line: speed, speedup, acceptance, and how much of the prompt was read."""
    total = figures.rounds
    parts = [f"{figures.method}: {total.new_tokens} tokens"]
    parts.append(f"{figures.tokens_per_second:.1f} tokens/s")
    if speedup is not None:
        parts.append(f"about {speedup:.2f}× plain decoding")
    if total.acceptance_rate is not None:
        parts.append(f"acceptance rate {total.acceptance_rate:.2f}")
        parts.append(f"mean acceptance length {total.mean_acceptance_length:.2f}")
    new = figures.prompt_tokens - figures.cached_tokens
    parts.append(f"read {new} of {figures.prompt_tokens} prompt tokens")
    return " · ".join([*parts, f"stopped by {total.stop_reason}"])
