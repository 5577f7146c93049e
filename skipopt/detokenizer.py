"""Encodes prompts to token ids, and decodes token ids to text incrementally.

stream = TextStream(tokenizer, stops=["\\n\\n"])
for ids in rounds: print(stream.push(ids), end="")
print(stream.flush())
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from skipopt.errors import PromptError, SkipoptError, UsageError
from skipopt.rounds import Round

if TYPE_CHECKING:
    from skipopt.prompts import Prompt

# What tokenizers return for bytes that do not form a character (yet).
REPLACEMENT = "\ufffd"
# A character has at most 4 bytes: after 3 more tokens it is complete or invalid.
PENDING_TOKENS = 3
# Most tokens decoded together; tokens kept as context for the tokenizer's spacing rules.
WINDOW, CONTEXT = 24, 8


class Detokenizer:
    """Decodes token by token; the returned pieces joined are the text of all tokens.

    For each token, only a window of the last tokens is decoded. Its text is final except for
    trailing bytes that may still become a character.

    The pieces differ from the text of all tokens only where a byte-fallback tokenizer (Llama 2)
    decodes a run of bytes with an invalid byte after a valid character: it then replaces the valid
    ones too, which were already returned.

    `tokenizers.decoders.DecodeStream` is not used: as of tokenizers 0.23 it never returns bytes
    that form no character, and with byte-fallback tokenizers (Llama 2) such bytes make it raise or
    return text that differs from `decode`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._returned = 0  # characters of the window's text that were returned
        self._pending = 0  # tokens since text was last returned

    def push(self, token: int) -> str:
        """The text that is final with this token; may be empty."""
        self._window.append(token)
        self._pending += 1
        text = self._decode(self._window)
        return self._take(text, self._final_length(text))

    def flush(self) -> str:
        """The rest of the text; call it when no more tokens will come."""
        text = self._decode(self._window)
        return self._take(text, len(text))

    def _final_length(self, text: str) -> int:
        """Number of characters of the window's text that later tokens cannot change."""
        complete = len(text.rstrip(REPLACEMENT))
        if complete < len(text) and self._pending > PENDING_TOKENS:
            # Invalid bytes: only the last of them may still begin a character.
            return max(complete, len(text) - PENDING_TOKENS)
        return complete

    def _take(self, text: str, end: int) -> str:
        """The text up to `end` that was not returned before."""
        if end <= self._returned:
            return ""
        piece, self._returned, self._pending = text[self._returned : end], end, 0
        if len(self._window) > WINDOW:
            self._shorten(text)
        return piece

    def _shorten(self, text: str) -> None:
        """Keep the last `CONTEXT` tokens of the window, or a few more to start at a character."""
        for size in range(CONTEXT, CONTEXT + PENDING_TOKENS + 1):
            kept = self._window[-size:]
            suffix = self._decode(kept)
            returned = self._returned - (len(text) - len(suffix))
            if text.endswith(suffix) and returned >= 0:
                self._window, self._returned = kept, returned
                return

    def _decode(self, ids: list[int]) -> str:
        # Cleaning up spaces would change text that was already returned.
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class TextStream:
    """The text of a growing list of tokens, up to the first stop string (excluded).

    The stop string that is completed first counts, however it is split into tokens. Text that may
    be the beginning of a stop string is held back until later tokens decide.

    Attributes:
        stopped: whether a stop string was found; later tokens are ignored.
        count: number of tokens so far, including the one that completed a stop string.

    Raises:
        UsageError: an empty stop string.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise UsageError("a stop string must not be empty", hint="leave out --stop")
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.count = 0

    def push(self, ids: Iterable[int]) -> str:
        """The text that is final with these tokens; may be empty."""
        pieces: list[str] = []
        for token in ids:
            if self.stopped:
                break
            self.count += 1
            pieces.append(self._filter(self._detokenizer.push(token)))
        return "".join(pieces)

    def take(self, round_: Round) -> TextRound:
        """A round with its text, cut after a stop string."""
        before = self.count
        text = self.push(round_.emitted)
        if round_.stop and not self.stopped:
            text += self.flush()
        if self.stopped:
            kept = round_.emitted[: self.count - before]
            return TextRound(replace(round_, emitted=kept, stop="stop"), text)
        return TextRound(round_, text)

    def flush(self) -> str:
        """The text held back; call it when no more tokens will come."""
        if self.stopped:
            return ""
        text = self._filter(self._detokenizer.flush())
        held, self._held = self._held, ""
        return text + held

    def _filter(self, text: str) -> str:
        held = self._held + text
        end = first_stop(held, self._stops)
        if end is not None:
            self.stopped, self._held = True, ""
            return held[:end]
        keep = len(held) - held_back(held, self._stops)
        self._held = held[keep:]
        return held[:keep]


def first_stop(text: str, stops: Iterable[str]) -> int | None:
    """Start of the stop string that is completed first; of several, start of the longest one."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def held_back(text: str, stops: Iterable[str]) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of a stop string."""
    return max((_overlap(text, stop) for stop in stops), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


@dataclass(frozen=True, slots=True)
class TextRound:
    """A round and the text that is final with it.

    Attributes:
        round: the round, cut after the token that completed a stop string.
        text: may be empty, or include text of earlier rounds that was held back.
    """

    round: Round
    text: str


def decode_text(
    tokenizer: Any, rounds: Iterable[Round], stops: Sequence[str] = ()
) -> Iterator[TextRound]:
    """The rounds with their text; ends at a stop string, with the stop reason `stop`.

    Raises:
        UsageError: an empty stop string.
    """
    stream = TextStream(tokenizer, stops)
    return _decode_text(stream, rounds)


def _decode_text(stream: TextStream, rounds: Iterable[Round]) -> Iterator[TextRound]:
    for each in rounds:
        yield stream.take(each)
        if stream.stopped:
            return


def encode_prompt(
    tokenizer: Any,
    text: str | None = None,
    messages: Sequence[dict[str, Any]] | None = None,
    chat: bool = False,
    tools: Sequence[dict[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of `text` as it is, or of `messages` in the model's chat template.

    Args:
        text: plain text; encoded with the special tokens that the tokenizer adds by default.
        messages: a list of `{"role": …, "content": …}`, put into the chat template.
        chat: put `text` into the chat template, as one user message.
        tools: descriptions of functions that the model may call, for the chat template.
        template_kwargs: more variables of the chat template.

    Raises:
        UsageError: neither or both are given, or the model has no chat template.
        PromptError: a message has a part that is not text; the chat template fails on these
            messages, or takes no tools or no such variable; or half a character.
    """
    if (text is None) == (messages is None):
        raise UsageError("a prompt is either text or messages")
    if messages is None and not chat:
        return _token_ids(tokenizer, text or "")
    if messages is None:
        messages = [{"role": "user", "content": text}]
    _check_parts(messages)
    rendered = _apply_template(tokenizer, messages, tools, template_kwargs or {})
    # The template includes the beginning-of-text token.
    return _token_ids(tokenizer, rendered, add_special_tokens=False)


def _check_parts(messages: Sequence[dict[str, Any]]) -> None:
    """Raise PromptError for images and other parts, of which only a placeholder would be left."""
    for number, message in enumerate(messages):
        content = message.get("content")
        for part in content if isinstance(content, list | tuple) else ():
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind != "text":
                raise PromptError(
                    f"messages.{number}.content: a part that is not text: {kind!r}",
                    hint="images: model.generate(**processor(…), custom_generate=decoder(…))",
                )


def _token_ids(tokenizer: Any, text: str, **options: bool) -> list[int]:
    """Token ids of Unicode text; tokenizers fail on half characters (surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"character {error.start + 1} of the prompt is half a character: "
            f"{text[error.start]!a}",
            hint="write it in UTF-8; in JSON, write both halves, such as \\ud83d\\ude42",
        ) from None
    return list(tokenizer(text, **options)["input_ids"])


def encode_prompts(tokenizer: Any, prompts: Iterable[Prompt]) -> list[list[int]]:
    """Token ids of each prompt; messages go through the model's chat template.

    For a model without one, a chat of one user message is that message as plain text.

    Raises:
        PromptError: a chat that the model cannot take; its file and line are named.
    """
    return [_encode(tokenizer, each) for each in prompts]


def _encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    plain = prompt.text if prompt.messages is None else None
    if plain is None and template_text(tokenizer) is None:
        plain = prompt.single_turn
    try:
        if plain is not None:
            return encode_prompt(tokenizer, plain)
        return encode_prompt(tokenizer, messages=prompt.chat(), tools=prompt.tool_list())
    except SkipoptError as error:
        if prompt.where is None:
            raise
        raise PromptError(f"{prompt.where}: {error}", hint=error.hint) from None


def template_text(tokenizer: Any) -> str | None:
    """The source of the chat template, or of all of them; None where there is none."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def template_hash(tokenizer: Any) -> str | None:
    """`sha256:…` of the chat template; None where there is none."""
    text = template_text(tokenizer)
    return None if text is None else f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _apply_template(
    tokenizer: Any,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    variables: Mapping[str, Any],
) -> str:
    source = template_text(tokenizer)
    if source is None:
        raise UsageError(
            "the model has no chat template", hint="leave out --chat, and give plain text"
        )
    _check_tools(source, messages, tools)
    _check_variables(source, variables)
    name = _template_name(tokenizer, bool(tools))
    try:
        rendered: str = tokenizer.apply_chat_template(
            list(messages),
            **{"add_generation_prompt": True, **variables, "tokenize": False},
            **({"tools": list(tools)} if tools else {}),
        )
    except Exception as error:  # whatever the model's own template raises
        text = " ".join(str(error).split())
        if line := getattr(error, "lineno", None):  # a syntax error of jinja2
            raise PromptError(
                f"{name} is broken in line {line}: {text}",
                hint="give plain text, or set tokenizer.chat_template to a template that works",
            ) from None
        raise PromptError(
            f"{name} fails on these messages: {text}",
            hint='a message looks like {"role": "user", "content": "…"}',
        ) from None
    return rendered


def _template_name(tokenizer: Any, tools: bool) -> str:
    """How messages call the template that transformers takes, by its name if there are several.

    Raises:
        PromptError: there are several, and none of them is the default.
    """
    templates = tokenizer.chat_template
    if not isinstance(templates, dict):
        return "the chat template"
    name = "tool_use" if tools and "tool_use" in templates else "default"
    if name not in templates:
        raise PromptError(
            f"the model has several chat templates and no default: {', '.join(sorted(templates))}",
            hint="set tokenizer.chat_template to one of them, or give plain text",
        )
    return f"the chat template {name!r}"


def _check_tools(
    source: str, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None
) -> None:
    """Refuse what the template would leave out of the prompt without a word."""
    given = {"tools": bool(tools), "tool_calls": any("tool_calls" in m for m in messages)}
    if left_out := [name for name, used in given.items() if used and name not in source]:
        raise PromptError(
            f"the model's chat template takes no `{left_out[0]}`, so they would be left out",
            hint="give prompts without tools, or a model that calls them",
        )


def _check_variables(source: str, variables: Mapping[str, Any]) -> None:
    """Refuse variables that the template does not read: a misspelled one would do nothing."""
    if unknown := [name for name in variables if not re.search(rf"\b{re.escape(name)}\b", source)]:
        raise PromptError(
            f"the model's chat template has no variable `{unknown[0]}`",
            hint="look for its variables in tokenizer.chat_template",
        )
