"""The prompt of `skipopt run`: a text or a chat, from an option, a file or stdin."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipopt.errors import PromptError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skipopt.models.target import Target
    from skipopt.prompts import Prompt

STDIN = "-"
MESSAGES_HINT = 'a file looks like [{"role": "user", "content": "…"}]'


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """What goes into the model's chat template besides the turns."""

    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPrompt(ChatTemplate):
    """Where the prompt comes from, and how it is put to the model.

    Raises:
        UsageError: options that exclude each other.
    """

    prompt: str | None = None
    prompt_file: Path | None = None
    messages: Path | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        sources = {
            "--prompt": self.prompt,
            "--prompt-file": self.prompt_file,
            "--messages": self.messages,
        }
        given = [name for name, value in sources.items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} exclude each other", hint="leave one out")

    @property
    def is_chat(self) -> bool:
        """Whether the chat template is applied: --chat, or an option that means nothing else."""
        asked = self.messages, self.system, self.chat_template_kwargs
        return self.chat or any(each is not None for each in asked)


def read_json_object(text: object) -> dict[str, Any]:
    """The value of --chat-template-kwargs.

    Raises:
        UsageError: it is not a JSON object.
    """
    import json

    if isinstance(text, dict):
        return text
    try:
        found = json.loads(str(text))
    except ValueError as error:
        raise UsageError(
            f"cannot read the JSON object {text!r}: {error}", hint=KWARGS_HINT
        ) from None
    if not isinstance(found, dict):
        raise UsageError(f"expected a JSON object, not {text!r}", hint=KWARGS_HINT)
    return found


KWARGS_HINT = "like '{\"enable_thinking\": false}'"


def read_prompt(source: RunPrompt, note: Callable[[str], None]) -> Prompt:
    """The prompt; a text becomes the messages of a chat if the chat template is to be applied.

    Raises:
        UsageError: there is none.
        PromptError: a file cannot be read, or the prompt is empty.
    """
    from skipopt.prompts import Message, Prompt

    if source.messages is not None:
        return _with_system(_read_messages(source.messages, note), source.system)
    text = _text(source)
    if not text:
        raise PromptError("the prompt is empty", hint="give at least one token of text")
    if not source.is_chat:
        return Prompt(text)
    return _with_system(Prompt(messages=(Message("user", text),)), source.system)


def encode(target: Target, prompt: Prompt, source: RunPrompt) -> list[int]:
    """Token ids of the prompt.

    Raises:
        UsageError: a chat for a model without a chat template.
        PromptError: the chat template fails on it.
    """
    from skipopt.decoding.text_prompt import tokenizer_of
    from skipopt.detokenizer import encode_prompt

    if prompt.messages is None:
        return encode_prompt(tokenizer_of(target), prompt.text)
    return encode_prompt(
        tokenizer_of(target),
        messages=prompt.chat(),
        tools=prompt.tool_list(),
        template_kwargs=source.chat_template_kwargs,
    )


def read_text(path: Path | None) -> str:
    """The text of a file, or of stdin for None and `-`, without one final newline.

    Raises:
        PromptError: it cannot be read.
    """
    is_stdin = path is None or str(path) == STDIN
    name = "stdin" if is_stdin else repr(str(path))
    try:
        raw = sys.stdin.buffer.read() if path is None or is_stdin else path.read_bytes()
        return raw.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise PromptError(
            f"cannot read the prompt from {name}: {error.strerror}", hint="check the path"
        ) from None
    except UnicodeDecodeError:
        raise PromptError(
            f"the prompt in {name} is not text", hint="it must be text in UTF-8"
        ) from None


def _text(source: RunPrompt) -> str:
    if source.prompt is not None and source.prompt != STDIN:
        return source.prompt
    is_asked = source.prompt == STDIN or source.prompt_file is not None
    if not is_asked and sys.stdin.isatty():
        raise UsageError(
            "there is no prompt", hint="give --prompt, --prompt-file, --messages, or stdin"
        )
    return read_text(source.prompt_file)


def _read_messages(path: Path, note: Callable[[str], None]) -> Prompt:
    """The chat in a JSON file: a list of messages, or an object with `messages` and `tools`.

    Raises:
        PromptError: it holds something else.
    """
    import json

    from skipopt.prompts.records import RecordError, read_record

    name = "stdin" if str(path) == STDIN else str(path)
    try:
        data = json.loads(read_text(path))
        record = data if isinstance(data, dict) else {"messages": data}
        found = read_record(record)
    except RecordError as error:
        raise PromptError(f"{name}: {error}", hint=MESSAGES_HINT) from None
    except ValueError as error:
        raise PromptError(f"{name}: not JSON: {error}", hint=MESSAGES_HINT) from None
    if found.prompt.messages is None:
        raise PromptError(f"{name}: a text, not messages", hint=MESSAGES_HINT)
    if found.is_cut:
        note(f"{name}: the answer at the end is left out, the model gives its own")
    return found.prompt


def _with_system(prompt: Prompt, system: str | None) -> Prompt:
    """The chat with a system message before it.

    Raises:
        UsageError: it has one already.
    """
    from dataclasses import replace

    from skipopt.prompts import Message

    if system is None:
        return prompt
    assert prompt.messages is not None, "--system makes a chat of a text"
    if prompt.messages[0].role == "system":
        raise UsageError(
            "--system and --messages both have a system message", hint="leave out --system"
        )
    return replace(prompt, messages=(Message("system", system), *prompt.messages))
