"""Generates text, whole or piece by piece, one piece per decoding round, with statistics.

for piece in skipopt.stream_generate(target, "def main():", profile=profile):
    print(piece.text, end="")
print(piece.statistics.tokens_per_second)

made = skipopt.complete(target, "def main():", profile=profile)
print(made.text, made.statistics.acceptance_by_position)
"""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

from skipopt.decoding.api import generate_rounds, resolve_method
from skipopt.decoding.options import DecodingFields, DecodingOptions
from skipopt.decoding.text_prompt import ending_turns, is_chat, prompt_ids, tokenizer_of
from skipopt.detokenizer import TextRound, decode_text
from skipopt.rounds import Round, Statistics

if TYPE_CHECKING:
    from skipopt.decoding.loop import Recorder
    from skipopt.decoding.prefix_cache import PrefixCache
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.logits_processing import Processor
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState
    from skipopt.profile import Profile

Clock = Callable[[], float]


@dataclass(slots=True, repr=False)
class TextStatistics:
    """How one text was generated.

    Attributes:
        method: name of the method with its options.
        prompt_tokens: number of tokens of the prompt.
        prefill_seconds: time before the first round.
        time_to_first_token: seconds until the first tokens: the prefill and the first round.
        cached_tokens: tokens of the prompt that a prefix cache held, so that they were not read.
        seconds: time of all rounds, without detokenization and the consumer of the pieces.
        rounds: totals over the rounds.
    """

    method: str
    prompt_tokens: int
    prefill_seconds: float = 0.0
    seconds: float = 0.0
    rounds: Statistics = field(default_factory=Statistics)
    time_to_first_token: float | None = None
    cached_tokens: int = 0

    def __repr__(self) -> str:
        return f"TextStatistics({self.method}, {self.seconds:.3f} s, {self.rounds})"

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted / drafted tokens; None if nothing was drafted."""
        return self.rounds.acceptance_rate

    @property
    def acceptance_by_position(self) -> tuple[float, ...]:
        """By position in the draft, the share of drafting rounds with a token accepted there."""
        return self.rounds.acceptance_by_position

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per target forward, the target's own ones included."""
        return self.rounds.mean_acceptance_length

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second of decoding, prefill excluded."""
        return self.rounds.new_tokens / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """The keys of `run --json` that are about speed and acceptance."""
        total = self.rounds
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "new_tokens": total.new_tokens,
            "method": self.method,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "prefill_seconds": self.prefill_seconds,
            "time_to_first_token": self.time_to_first_token,
            "target_forwards": total.target_forwards,
            "draft_forwards": total.draft_forwards,
            "drafted": total.drafted,
            "accepted": total.accepted,
            "acceptance_rate": total.acceptance_rate,
            "mean_acceptance_length": total.mean_acceptance_length,
            "acceptance_by_position": total.acceptance_by_position,
            "put_off_tokens": total.put_off_tokens,
            "stop_reason": total.stop_reason,
        }


@dataclass(frozen=True, slots=True, repr=False)
class TextPiece:
    """The text of one round.

    Attributes:
        text: may be empty, or include text of earlier rounds that was not final before.
        round: the round; if its text has a stop string, without the tokens after it.
        statistics: those of the whole text on the last piece, else None.
    """

    text: str
    round: Round
    statistics: TextStatistics | None = None

    def __repr__(self) -> str:
        end = f", {self.finish_reason}" if self.finish_reason else ""
        return f"TextPiece({self.text!r}, {self.token_ids}{end})"

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The new tokens of the round, including those of a stop string."""
        return self.round.emitted

    @property
    def from_draft(self) -> tuple[bool, ...]:
        """For each of `token_ids`, whether it is an accepted draft token."""
        return tuple(token.from_draft for token in self.round.tokens)

    @property
    def origins(self) -> tuple[str, ...]:
        """For each of `token_ids`, where it came from; see `Round.origins`."""
        return self.round.origins

    @property
    def finish_reason(self) -> str | None:
        """`eos`, `length`, `context` or `stop` on the last piece, else None."""
        return self.round.stop


@dataclass(frozen=True, slots=True, repr=False)
class GeneratedText:
    """A finished text."""

    text: str
    rounds: tuple[Round, ...]
    statistics: TextStatistics

    @classmethod
    def of(cls, pieces: Sequence[TextPiece]) -> GeneratedText:
        """The text of a complete stream."""
        statistics = pieces[-1].statistics
        assert statistics is not None, "the last piece of a stream has statistics"
        text = "".join(piece.text for piece in pieces)
        return cls(text, tuple(piece.round for piece in pieces), statistics)

    @classmethod
    def of_rounds(
        cls,
        tokenizer: Any,
        rounds: Iterable[Round],
        stop: Sequence[str],
        statistics: TextStatistics,
    ) -> GeneratedText:
        """The text of rounds that were timed already; their totals are added to `statistics`."""
        with_text = decode_text(tokenizer, rounds, stop)
        return cls.of(list(_with_statistics(with_text, statistics)))

    def __repr__(self) -> str:
        return (
            f"GeneratedText({reprlib.repr(self.text)}, {len(self.tokens)} tokens, "
            f"{self.finish_reason})"
        )

    @property
    def tokens(self) -> list[int]:
        """The new tokens."""
        return [token for each in self.rounds for token in each.emitted]

    @property
    def origins(self) -> list[str]:
        """For each of `tokens`, where it came from; see `Round.origins`."""
        return [origin for each in self.rounds for origin in each.origins]

    @property
    def finish_reason(self) -> str | None:
        """`eos`, `length`, `context` or `stop`."""
        return self.statistics.rounds.stop_reason

    def to_json(self) -> dict[str, Any]:
        """The keys of `run --json` that are about the text."""
        return {"text": self.text, "tokens": self.tokens, **self.statistics.to_json()}


def stream_generate(
    target: Target,
    prompt: str | Sequence[Mapping[str, str]] | Sequence[int] | Any,
    options: DecodingOptions | None = None,
    *,
    profile: Profile | None = None,
    online_state: OnlineState | None = None,
    memory: DraftMemory | None = None,
    chat: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    logits_processor: Sequence[Processor] = (),
    recorder: Recorder | None = None,
    prefix_cache: PrefixCache | None = None,
    **changes: Unpack[DecodingFields],
) -> Iterator[TextPiece]:
    """Generate text piece by piece, one per round.

    Args:
        prompt: text, chat messages (`{"role": …, "content": …}`), token ids, or a tensor of ids
            of shape (1, T).
        options: method, length, sampling and stop strings.
        profile: mask and draft settings; None decodes plainly unless a method is given.
        online_state: tune mask, γ and τ while generating; see `new_online_state`.
        memory: earlier texts to copy from; this one is added at its end. See `generate_rounds`.
        chat: put a text into the model's chat template, as one user message.
        chat_template_kwargs: more variables of the template, such as `{"enable_thinking": False}`.
        logits_processor, recorder, prefix_cache: see `generate_rounds`.
        changes: fields of `options` to replace, such as `max_new_tokens=64` or
            `method="prompt-lookup"`.

    Raises:
        PromptError, ProfileError, UsageError: before the first piece.
    """
    options = replace(options or DecodingOptions(), **changes)
    tokenizer, ids = tokenizer_of(target), prompt_ids(target, prompt, chat, chat_template_kwargs)
    if chat or is_chat(prompt):
        target = ending_turns(target)
    method = str(resolve_method(profile, options.method, online_state is not None))
    rounds = generate_rounds(
        target,
        ids,
        profile=profile,
        method=options.method,
        max_new_tokens=options.max_new_tokens,
        options=options.sampling,
        online_state=online_state,
        memory=memory,
        logits_processor=logits_processor,
        recorder=recorder,
        prefix_cache=prefix_cache,
    )
    cached = 0 if prefix_cache is None else prefix_cache.num_cached
    statistics = TextStatistics(method, len(ids), cached_tokens=cached)
    return text_pieces(tokenizer, rounds, options.stop, statistics)


def complete(
    target: Target,
    prompt: str | Sequence[Mapping[str, str]] | Sequence[int] | Any,
    options: DecodingOptions | None = None,
    *,
    profile: Profile | None = None,
    online_state: OnlineState | None = None,
    memory: DraftMemory | None = None,
    chat: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    logits_processor: Sequence[Processor] = (),
    recorder: Recorder | None = None,
    prefix_cache: PrefixCache | None = None,
    **changes: Unpack[DecodingFields],
) -> GeneratedText:
    """Generate a whole text; arguments and errors are those of `stream_generate`."""
    pieces = stream_generate(
        target,
        prompt,
        options,
        profile=profile,
        online_state=online_state,
        memory=memory,
        chat=chat,
        chat_template_kwargs=chat_template_kwargs,
        logits_processor=logits_processor,
        recorder=recorder,
        prefix_cache=prefix_cache,
        **changes,
    )
    return GeneratedText.of(list(pieces))


def text_pieces(
    tokenizer: Any,
    rounds: Iterable[Round],
    stop: Sequence[str],
    statistics: TextStatistics,
    clock: Clock = time.perf_counter,
) -> Iterator[TextPiece]:
    """The text of rounds; updates `statistics` and attaches it to the last piece.

    Raises:
        UsageError: an empty stop string.
    """
    timed = timed_rounds(rounds, statistics, clock)
    return _with_statistics(decode_text(tokenizer, timed, stop), statistics)


def _with_statistics(
    rounds: Iterable[TextRound], statistics: TextStatistics
) -> Iterator[TextPiece]:
    for each in rounds:
        statistics.rounds.add(each.round)
        yield TextPiece(each.text, each.round, statistics if each.round.stop else None)


def timed_rounds(
    rounds: Iterable[Round], statistics: TextStatistics, clock: Clock = time.perf_counter
) -> Iterator[Round]:
    """The rounds; the time that each takes is added to `statistics`."""
    iterator = iter(rounds)
    is_first = True
    while True:
        began = clock()
        each = next(iterator, None)
        seconds = clock() - began
        if each is None:
            return
        if is_first:  # its time includes the prefill
            is_first = False
            if statistics.time_to_first_token is None:
                statistics.time_to_first_token = seconds
            prefill = max(0.0, seconds - each.draft_seconds - each.verify_seconds)
            statistics.prefill_seconds += prefill
            seconds -= prefill
        statistics.seconds += seconds
        yield each
