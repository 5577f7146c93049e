"""What is decoded when times are compared: prompts, and how far each may be continued.

Knows nothing of contenders but the reference, and nothing of time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from skipopt.errors import PromptError
from skipopt.repetition import repeats_from

SHORTEST_TEXT = 8


class OnlyRepetition(PromptError):
    """Every continuation only repeats itself."""


Continue = Callable[[Sequence[int]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts and their greedy continuations, each cut where it begins to loop.

    Attributes:
        prompts: those whose continuation is long enough to be timed.
        references: plain decoding's tokens for each of them, without the loop.
        given: how many prompts there were.
        looped: how many continuations ended in a loop.
        looped_tokens: tokens of those loops, which no figure counts.
    """

    prompts: tuple[tuple[int, ...], ...]
    references: tuple[tuple[int, ...], ...]
    given: int
    looped: int
    looped_tokens: int

    @property
    def lengths(self) -> list[int]:
        """New tokens of each text."""
        return [len(text) for text in self.references]

    @property
    def left_out(self) -> int:
        """Prompts whose text is too short to be timed."""
        return self.given - len(self.prompts)

    def to_json(self) -> dict[str, Any]:
        """Counts; `share_looped` is of the prompts that were given."""
        return {
            "count": self.given,
            "timed": len(self.prompts),
            "left_out": self.left_out,
            "looped": self.looped,
            "share_looped": self.looped / self.given,
            "looped_tokens": self.looped_tokens,
        }


def make_workload(prompts: Sequence[Sequence[int]], continue_plainly: Continue) -> Workload:
    """Continue every prompt, cut loops off, and leave out texts under 8 tokens.

    Raises:
        NothingButLoops: no prompt is left, for every text loops.
        PromptError: no prompt is left.
    """
    texts = [tuple(continue_plainly(prompt)) for prompt in prompts]
    starts = [repeats_from(text) for text in texts]
    cut = [text[:start] for text, start in zip(texts, starts, strict=True)]
    kept = [i for i, text in enumerate(cut) if len(text) >= SHORTEST_TEXT]
    if not kept:
        kind = OnlyRepetition if None not in starts else PromptError
        raise kind(
            f"none of the {len(prompts)} prompts is continued by {SHORTEST_TEXT} tokens or more "
            "before the text ends or only repeats itself",
            hint="give other prompts, or raise --max-new-tokens",
        )
    return Workload(
        tuple(tuple(prompts[i]) for i in kept),
        tuple(cut[i] for i in kept),
        given=len(prompts),
        looped=sum(start is not None for start in starts),
        looped_tokens=sum(map(len, texts)) - sum(map(len, cut)),
    )
