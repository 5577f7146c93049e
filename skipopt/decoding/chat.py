"""A conversation with a model, which reads only what is new in each turn.

chat = skipopt.Chat(target, profile=profile, system="Answer briefly.")
for piece in chat.send("What is a skip mask?"):
    print(piece.text, end="")
print(chat.statistics.cached_tokens)
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from skipopt.decoding.api import generate_rounds, resolve_method
from skipopt.decoding.options import ChatOptions, DecodingFields, DecodingOptions
from skipopt.decoding.prefix_cache import PrefixCache
from skipopt.decoding.text import TextPiece, TextStatistics, text_pieces
from skipopt.decoding.text_prompt import ending_turns, tokenizer_of
from skipopt.detokenizer import encode_prompt, template_text
from skipopt.errors import PromptError

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile

Message = dict[str, str]


class Chat:
    """Turns of a user and answers of a model.

    The prompt of a turn is all messages so far in the model's chat template; of a model without
    one it is their running text. What it has in common with the text before is not read again.
    The answer is that of a fresh decoding of the same prompt: in float32 the same tokens, below
    float32 within the numerical margin.

    Args:
        options: `ChatOptions()` by default.
        profile: mask and draft settings; None decodes plainly unless a method is given.
        system: the system message.
        template_kwargs: more variables of the chat template.
        changes: fields of `options` to replace.

    Attributes:
        messages: so far, the system message first if there is one.
        statistics: of the latest answer, up to where it was stopped; None before the first one.
        prefix_cache: keys and values of the text so far.

    Raises:
        UsageError: no tokenizer, an unknown method, or one that needs a profile.
    """

    def __init__(
        self,
        target: Target,
        options: DecodingOptions | None = None,
        *,
        profile: Profile | None = None,
        system: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        **changes: Unpack[DecodingFields],
    ) -> None:
        self._tokenizer = tokenizer_of(target)
        self.has_template = template_text(self._tokenizer) is not None
        self._target = ending_turns(target) if self.has_template else target
        self._options = replace(options or ChatOptions(), **changes)
        self._profile = profile
        self._method = str(resolve_method(profile, self._options.method))
        self._template_kwargs = template_kwargs
        self.messages: list[Message] = []
        self.statistics: TextStatistics | None = None
        self.prefix_cache = PrefixCache()
        self.restart(system)

    def __repr__(self) -> str:
        return f"Chat({self._method}, {len(self.messages)} messages)"

    @property
    def system(self) -> str | None:
        """The system message."""
        first = self.messages[0] if self.messages else {}
        return first["content"] if first.get("role") == "system" else None

    def restart(self, system: str | None = None) -> None:
        """Forget all turns, and begin with this system message."""
        self.messages = [] if system is None else [{"role": "system", "content": system}]

    def send(self, text: str) -> Generator[TextPiece, None, None]:
        """The answer to one turn of the user, piece by piece.

        Turn and answer count as said when the last piece was taken, and when the iterator is
        closed before: then the answer ends there.

        Raises:
            PromptError: the conversation no longer fits into the context, or the chat template
                fails on it; before the first piece.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self._prompt(messages)
        rounds = generate_rounds(
            self._target,
            ids,
            profile=self._profile,
            method=self._options.method,
            max_new_tokens=self._options.max_new_tokens,
            options=self._options.sampling,
            prefix_cache=self.prefix_cache,
        )
        cached = self.prefix_cache.num_cached
        self.statistics = TextStatistics(self._method, len(ids), cached_tokens=cached)
        pieces = text_pieces(self._tokenizer, rounds, self._options.stop, self.statistics)
        return self._answer(pieces, messages)

    def _answer(
        self, pieces: Iterator[TextPiece], messages: list[Message]
    ) -> Generator[TextPiece, None, None]:
        said: list[str] = []
        try:
            for piece in pieces:
                said.append(piece.text)
                yield piece
        finally:
            if said:
                answer = {"role": "assistant", "content": "".join(said)}
                self.messages = [*messages, answer]

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        if self.has_template:
            given = self._template_kwargs
            return encode_prompt(self._tokenizer, messages=messages, template_kwargs=given)
        if self._template_kwargs:
            raise PromptError(
                "the model has no chat template, so it has no variables",
                hint="leave out --chat-template-kwargs",
            )
        return encode_prompt(self._tokenizer, running_text(messages))


def running_text(messages: Sequence[Message]) -> str:
    """The messages one after another; what a user says begins on a line of its own."""
    text = ""
    for each in messages:
        if text and each["role"] == "user" and not text.endswith("\n"):
            text += "\n"
        text += each["content"]
    return text
