"""The prompts that runners are compared on, with their plain continuations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skipopt.errors import PromptError
from skipopt.measurement.lossless import ComparedText
from skipopt.measurement.timing import Sample
from skipopt.repetition import repeats_from

MIN_TOKENS = 8


class OnlyRepetition(PromptError):
    """Every continuation starts to repeat itself before it is long enough to be timed."""


Continue = Callable[[Sequence[int]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts and their greedy continuations, each cut where degenerate repetition starts.

    Repetition is easy to draft and would inflate speedups, so it is not timed.

    Attributes:
        prompts: those whose continuation is long enough to be timed.
        references: the tokens of plain decoding for each of them, without repetition.
        given: number of prompts, the skipped ones included.
        repetitive: number of continuations that end in repetition.
        repetitive_tokens: number of tokens that were cut.
        categories: of each of `prompts`; None where it has none.
    """

    prompts: tuple[tuple[int, ...], ...]
    references: tuple[tuple[int, ...], ...]
    given: int
    repetitive: int
    repetitive_tokens: int
    categories: tuple[str | None, ...] = ()

    @property
    def by_category(self) -> dict[str, list[int]]:
        """Indices of the prompts of each category, in order of first appearance."""
        found: dict[str, list[int]] = {}
        for index, category in enumerate(self.categories):
            if category is not None:
                found.setdefault(category, []).append(index)
        return found

    @property
    def lengths(self) -> list[int]:
        """New tokens of each text."""
        return [len(text) for text in self.references]

    @property
    def skipped_prompts(self) -> int:
        """Number of prompts whose continuation is too short to be timed."""
        return self.given - len(self.prompts)

    def first(self, count: int) -> Workload:
        """Only the first `count` of `prompts`, as if the others had not been given."""
        return replace(
            self,
            given=self.given - len(self.prompts) + count,
            prompts=self.prompts[:count],
            references=self.references[:count],
            categories=self.categories[:count],
        )

    def compared_texts(self, samples: Iterable[Sample]) -> list[ComparedText]:
        """The text of each sample, with its prompt and its reference."""
        return [self.compared_text(each.prompt, each.decoding.tokens) for each in samples]

    def compared_text(self, prompt: int, text: tuple[int, ...]) -> ComparedText:
        """A text of the prompt with this index."""
        return ComparedText(self.prompts[prompt], self.references[prompt], text)

    def to_json(self) -> dict[str, Any]:
        """Counts, and categories in the order of samples; `share_repetitive` is of `count`."""
        return {
            "count": self.given,
            "num_timed": len(self.prompts),
            "skipped_prompts": self.skipped_prompts,
            "repetitive": self.repetitive,
            "share_repetitive": self.repetitive / self.given,
            "repetitive_tokens": self.repetitive_tokens,
            "categories": {name: len(own) for name, own in self.by_category.items()},
            "category_of": list(self.categories),
        }


def make_workload(
    prompts: Sequence[Sequence[int]],
    continue_plainly: Continue,
    categories: Sequence[str | None] = (),
) -> Workload:
    """Continue every prompt, cut repetition, and skip continuations of fewer than 8 tokens.

    Args:
        categories: of each prompt; empty where none has one.

    Raises:
        OnlyRepetition: no prompt is left because every continuation repeats itself.
        PromptError: no prompt is left for another reason.
    """
    texts = [tuple(continue_plainly(prompt)) for prompt in prompts]
    starts = [repeats_from(text) for text in texts]
    cut = [text[:start] for text, start in zip(texts, starts, strict=True)]
    kept = [i for i, text in enumerate(cut) if len(text) >= MIN_TOKENS]
    if not kept:
        kind = OnlyRepetition if None not in starts else PromptError
        raise kind(
            f"none of the {len(prompts)} prompts has a continuation of {MIN_TOKENS} or more tokens"
            " before the text ends or repeats itself",
            hint="give other prompts, or raise --max-new-tokens",
        )
    return Workload(
        tuple(tuple(prompts[i]) for i in kept),
        tuple(cut[i] for i in kept),
        given=len(prompts),
        repetitive=sum(start is not None for start in starts),
        repetitive_tokens=sum(map(len, texts)) - sum(map(len, cut)),
        categories=tuple(categories[i] for i in kept) if categories else (),
    )
