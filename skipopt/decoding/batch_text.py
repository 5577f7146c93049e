"""Generates several texts together.

made = skipopt.generate_batch(target, ["def main():", "class Stack:"], profile=profile)
for text in made:
    print(text.text)
print(made.statistics.tokens_per_second)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

from skipopt.decoding.batch import (
    DEFAULT_BATCH_SIZE,
    BatchDecoding,
    BatchRequest,
    BatchStatistics,
)
from skipopt.decoding.options import DecodingFields, DecodingOptions
from skipopt.decoding.text import GeneratedText, TextPiece, TextStatistics
from skipopt.decoding.text_prompt import ending_turns, is_chat, prompt_ids, tokenizer_of
from skipopt.detokenizer import TextStream
from skipopt.errors import UsageError
from skipopt.rounds import Round

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.models.target import Target
    from skipopt.profile import Profile


@dataclass(frozen=True, slots=True, repr=False)
class GeneratedBatch(Sequence[GeneratedText]):
    """Finished texts, in the order of their prompts."""

    texts: tuple[GeneratedText, ...]
    statistics: BatchStatistics

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Any) -> Any:
        return self.texts[index]

    def __repr__(self) -> str:
        speed = self.statistics.tokens_per_second
        return f"GeneratedBatch({len(self.texts)} texts, {speed:.1f} tokens/s)"


def generate_batch(
    target: Target,
    prompts: Sequence[str | Sequence[Mapping[str, str]] | Sequence[int] | Any],
    options: DecodingOptions | None = None,
    *,
    profile: Profile | None = None,
    memory: DraftMemory | None = None,
    chat: bool = False,
    seeds: Sequence[int] | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    **changes: Unpack[DecodingFields],
) -> GeneratedBatch:
    """Generate several texts together, with one forward of the target for all of them.

    Each is the text of `skipopt.complete` with the same prompt, options and seed: identical on the
    native kernels, within rounding elsewhere.

    Args:
        prompts: each in a form that `skipopt.complete` accepts.
        options: method, length, sampling and stop strings, of all texts.
        profile: mask and draft settings; None decodes plainly unless a method is given.
        memory: earlier texts to copy from; each text is added at its end.
        chat: put each text into the model's chat template, as one user message.
        seeds: one for each prompt; by default the seed of `options` for the first, and the next
            number for each further one.
        batch_size: most texts that are decoded together. A text that ends leaves its place to the
            next prompt.
        changes: fields of `options` to replace, such as `max_new_tokens=64`.

    Raises:
        UsageError: no prompts, one prompt in place of several, a method that does not decode
            batches, or another number of seeds than of prompts.
        ModelError: the model cannot decode batches.
        PromptError, ProfileError: as `skipopt.complete`.
    """
    options = replace(options or DecodingOptions(), **changes)
    tokenizer = tokenizer_of(target)
    _check_several(prompts)
    prompts = list(prompts)
    if chat or any(is_chat(prompt) for prompt in prompts):
        target = ending_turns(target)
    requests = [
        BatchRequest(
            prompt_ids(target, prompt, chat),
            options.max_new_tokens,
            replace(options.sampling, seed=seed),
        )
        for prompt, seed in zip(prompts, _seeds(options, seeds, len(prompts)), strict=True)
    ]
    decoding = BatchDecoding(
        target,
        requests,
        profile=profile,
        method=options.method,
        memory=memory,
        batch_size=batch_size,
    )
    method = decoding.statistics.method
    texts = [
        _Pieces(TextStream(tokenizer, options.stop), TextStatistics(method, len(request.tokens)))
        for request in requests
    ]
    for rounds in decoding:
        for number, each in rounds.items():
            if texts[number].add(each):
                decoding.leave(number)
    return GeneratedBatch(tuple(text.generated() for text in texts), decoding.statistics)


@dataclass(slots=True)
class _Pieces:
    """The pieces of one text so far."""

    stream: TextStream
    statistics: TextStatistics
    pieces: list[TextPiece] = field(default_factory=list)

    def add(self, round_: Round) -> bool:
        """Take in a round; whether the text has ended."""
        found = self.stream.take(round_)
        self.statistics.rounds.add(found.round)
        self.statistics.seconds += round_.draft_seconds + round_.verify_seconds
        ended = found.round.stop is not None
        self.pieces.append(TextPiece(found.text, found.round, self.statistics if ended else None))
        return ended

    def generated(self) -> GeneratedText:
        return GeneratedText.of(self.pieces)


def _check_several(prompts: Any) -> None:
    """Raise UsageError unless these are several prompts, in a list."""
    one = isinstance(prompts, str | Mapping) or is_chat(prompts)
    if not one and isinstance(prompts, list | tuple) and prompts:
        one = hasattr(prompts[0], "__index__")
    if one or not isinstance(prompts, Iterable):
        raise UsageError(
            "generate_batch takes a list of prompts, and this is one prompt",
            hint="put it into a list, or call skipopt.complete",
        )


def _seeds(options: DecodingOptions, seeds: Sequence[int] | None, count: int) -> Sequence[int]:
    """One for each text."""
    if seeds is None:
        return range(options.seed, options.seed + count)
    if len(seeds) != count:
        raise UsageError(
            f"{len(seeds)} seeds are given for {count} prompts", hint="give one for each prompt"
        )
    return seeds
