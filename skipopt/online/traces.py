"""What drafts under a mask would have been on text that is already there.

Knows nothing of prices, or of which mask is good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.sampling import confidence

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.runtime.engine import Engine
    from skipopt.sampling import TokenSampler


class SimulatedRound(NamedTuple):
    """A round as it would have gone: tokens it yields, its own included, and tokens drafted."""

    tokens: int
    drafted: int


@dataclass(frozen=True, slots=True)
class Trace:
    """A mask on consecutive tokens of a text.

    Attributes:
        hits: was the draft's guess the token that stands there?
        sure: its confidence.
    """

    hits: tuple[bool, ...]
    sure: tuple[float, ...]

    def rounds(self, gamma: int, tau: float, reach: int) -> list[SimulatedRound]:
        """The rounds that would have begun at each place with `reach` tokens from there on.

        After a wrong guess the confidences are still those on the right text. Real drafts read
        their own keys and values from the second token on, so this is a little bright.

        Args:
            reach: γ or more; the same for all that are compared, so that their rounds are pairs.
        """
        starts = range(len(self.hits) - reach + 1)
        return [self._round(start, gamma, tau) for start in starts]

    def _round(self, start: int, gamma: int, tau: float) -> SimulatedRound:
        drafted = 1 + next((i for i in range(gamma) if self.sure[start + i] < tau), gamma - 1)
        guesses = self.hits[start : start + drafted]
        return SimulatedRound(
            1 + next((i for i, hit in enumerate(guesses) if not hit), drafted), drafted
        )


def score(
    engine: Engine, sampler: TokenSampler, tokens: Sequence[int], window: int, mask: SkipMask
) -> Trace:
    """What a draft's first guess under `mask` would have been at each of the last tokens.

    All positions run at once behind the committed cache: each sees the whole model's keys and
    values before it and its own, as the first draft of a round does.

    Args:
        engine: at the position before the current token; is so again afterwards.
        sampler: with coupled sampling the guess is made with the noise of its position, so that
            hits are drafts that would have been accepted; else it is the likeliest.
        tokens: prompt and text so far.
        window: how many of the last tokens; fewer than there are before the current one.
    """
    start = engine.position
    first = start - window  # its prediction is the first that is scored
    try:
        with skipping(engine.target, mask):
            logits = engine.step_tree(tokens[first:start], range(window), _beside(window))
    finally:
        engine.rewind(start)
    right = tokens[first + 1 : start + 1]
    guesses: list[int] = logits.argmax(-1).tolist()
    if sampler.coupled:
        guesses = sampler.choose(logits, range(first + 1, start + 1))
    hits = tuple(a == b for a, b in zip(guesses, right, strict=True))
    return Trace(hits, tuple(confidence(logits.float()).tolist()))


def _beside(window: int) -> Tensor:
    """Row i sees the window's committed tokens before its own, and itself.  # (w, 2w) bool"""
    import torch

    before = torch.ones(window, window, dtype=torch.bool).tril(-1)
    return torch.cat([before, torch.eye(window, dtype=torch.bool)], 1)
