"""Text to token ids, and token ids to text as it is decided.

    stream = TextStream(tokenizer, stops=["\\n\\n"])
    for ids in pieces: print(stream.push(ids), end="")
    print(stream.flush())

Knows nothing of models, of how tokens come about, or of printing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skipopt.errors import PromptError, UsageError
from skipopt.rounds import Round

# What decoders write for bytes that are no character (yet).
UNDECIDED = "\ufffd"
# A character has at most 4 bytes, so it is complete, or wrong, after 3 more tokens.
PENDING_TOKENS = 3
# Tokens kept as context, so that spacing rules of the tokenizer still see what stood before.
WINDOW, CONTEXT = 24, 8


class Detokenizer:
    """Decodes token by token without decoding the whole text again each time.

    Only a window of the last tokens is decoded; of its text everything is decided but a tail of
    bytes that may yet become a character.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._given = 0  # characters of the window's text that were handed out
        self._waiting = 0  # tokens since text was last handed out

    def push(self, token: int) -> str:
        """The text that is decided with this token; may be empty."""
        self._window.append(token)
        self._waiting += 1
        text = self._decode(self._window)
        return self._give(text, self._decided(text))

    def flush(self) -> str:
        """What is still undecided, as it stands."""
        text = self._decode(self._window)
        return self._give(text, len(text))

    def _decided(self, text: str) -> int:
        whole = len(text.rstrip(UNDECIDED))
        if whole < len(text) and self._waiting > PENDING_TOKENS:
            # Bytes that will never be a character: only the last of them may yet begin one.
            return max(whole, len(text) - PENDING_TOKENS)
        return whole

    def _give(self, text: str, decided: int) -> str:
        if decided <= self._given:
            return ""
        piece, self._given, self._waiting = text[self._given : decided], decided, 0
        if len(self._window) > WINDOW:
            self._shorten(text)
        return piece

    def _shorten(self, text: str) -> None:
        """Forget the window's first tokens, up to where a character begins."""
        for size in range(CONTEXT, CONTEXT + PENDING_TOKENS + 1):
            kept = self._window[-size:]
            end = self._decode(kept)
            given = self._given - (len(text) - len(end))
            if text.endswith(end) and given >= 0:
                self._window, self._given = kept, given
                return

    def _decode(self, ids: list[int]) -> str:
        # Cleaning up spaces would change text that was handed out before.
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class TextStream:
    """The text of a growing list of tokens, ending just before the first stop string.

    The stop string that is complete first ends the text, whatever tokens it is made of; text
    that may be the start of one is held back until that is decided.

    Attributes:
        stopped: a stop string was found; later tokens are ignored.
        count: tokens taken, up to and with the one that completed a stop string.

    Raises:
        UsageError: an empty stop string.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise UsageError("a stop text must not be empty", hint="leave out --stop")
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.count = 0

    def push(self, ids: Iterable[int]) -> str:
        """The text that is decided with these tokens; may be empty."""
        pieces: list[str] = []
        for token in ids:
            if self.stopped:
                break
            self.count += 1
            pieces.append(self._filter(self._detokenizer.push(token)))
        return "".join(pieces)

    def flush(self) -> str:
        """What was held back; call it when no more tokens will come."""
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
    """Where the stop string begins that is complete first; of several, the longest."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def held_back(text: str, stops: Iterable[str]) -> int:
    """Length of the longest end of `text` with which a stop string begins."""
    return max((_overlap(text, stop) for stop in stops), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


@dataclass(frozen=True, slots=True)
class TextRound:
    """A round and the text that is decided with it.

    Attributes:
        round: as decoded, but cut after the token that completed a stop string.
        text: may be empty, or hold what earlier rounds left undecided.
    """

    round: Round
    text: str


def decode_text(
    tokenizer: Any, rounds: Iterable[Round], stops: Sequence[str] = ()
) -> Iterator[TextRound]:
    """The rounds with their text; ends at a stop string, with the stop reason `stop`."""
    stream = TextStream(tokenizer, stops)
    return _decode_text(stream, rounds)


def _decode_text(stream: TextStream, rounds: Iterable[Round]) -> Iterator[TextRound]:
    for each in rounds:
        before = stream.count
        text = stream.push(each.emitted)
        if each.stop and not stream.stopped:
            text += stream.flush()
        if stream.stopped:
            kept = each.emitted[: stream.count - before]
            yield TextRound(replace(each, emitted=kept, stop="stop"), text)
            return
        yield TextRound(each, text)


def encode_prompt(
    tokenizer: Any,
    text: str | None = None,
    messages: Sequence[dict[str, Any]] | None = None,
    chat: bool = False,
) -> list[int]:
    """Token ids of a prompt: `text` as it is, or `messages` in the model's chat template.

    Args:
        text: continued as it stands, with the beginning-of-text token the tokenizer adds by
            default. With `chat` it is one message of the user.
        messages: `{"role": …, "content": …}`, always in the chat template.

    Raises:
        UsageError: neither or both are given, or the model has no chat template.
        PromptError: the template refuses these messages.
    """
    if (text is None) == (messages is None):
        raise UsageError("a prompt is either text or messages")
    if messages is None and not chat:
        return list(tokenizer(text)["input_ids"])
    if messages is None:
        messages = [{"role": "user", "content": text}]
    written = _apply_template(tokenizer, messages)
    # The template writes the beginning-of-text token itself.
    return list(tokenizer(written, add_special_tokens=False)["input_ids"])


def _apply_template(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> str:
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "the model has no chat template", hint="leave out --chat, and give plain text"
        )
    try:
        written: str = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, TypeError, KeyError) as error:
        raise PromptError(
            f"the chat template refuses these messages: {' '.join(str(error).split())}",
            hint='a message looks like {"role": "user", "content": "…"}',
        ) from None
    return written
