"""Find where a greedy text stops saying anything new and only repeats itself.

A looping text flatters every drafter that copies, so figures are computed on what comes before.
Knows nothing of models or timing: a text is a sequence of token ids.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_PERIOD = 16
CYCLES = 3
SHORTEST_LOOP = 8
LONG_LOOP = 24


def repeats_from(tokens: Sequence[int], longest_period: int = LONGEST_PERIOD) -> int | None:
    """The position from which `tokens` only repeats itself up to its end; None if it does not.

    A loop is a stretch that reaches the end and in which every token equals the one p ≤
    `longest_period` before it. It must hold three whole cycles and at least 8 tokens (so that a
    few line breaks are no loop), or two whole cycles and at least 24 tokens. The first cycle was
    new when it was written: the position is where the second one begins.
    """
    found = (_second_cycle(tokens, period) for period in range(1, longest_period + 1))
    return min((start for start in found if start is not None), default=None)


def share_looping(texts: Sequence[Sequence[int]], within: int = 64) -> float:
    """Share of texts whose first `within` tokens end in a loop; 0 where there are no texts."""
    looping = sum(repeats_from(text[:within]) is not None for text in texts)
    return looping / max(1, len(texts))


def _second_cycle(tokens: Sequence[int], period: int) -> int | None:
    """Where the second cycle begins, if the end of `tokens` is a loop of this period."""
    start = len(tokens)
    while start > period and tokens[start - 1] == tokens[start - 1 - period]:
        start -= 1
    length = len(tokens) - start + period  # the first cycle belongs to the loop
    enough = max(CYCLES * period, SHORTEST_LOOP)
    return start if length >= min(enough, max(2 * period, LONG_LOOP)) else None
