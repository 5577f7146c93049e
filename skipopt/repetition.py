"""Find degenerate repetition: where a greedy text stops being new and only repeats itself.

Such text inflates the acceptance rate of every drafter that copies, so figures are computed on
the text before it.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_PERIOD = 16
MIN_CYCLES = 3
MIN_TOKENS = 8
MIN_TOKENS_OF_TWO_CYCLES = 24


def repeats_from(tokens: Sequence[int], longest_period: int = LONGEST_PERIOD) -> int | None:
    """Where the repeating end of a text begins.

    A text repeats itself if it ends in a stretch in which every token equals the one `period`
    tokens before it. The stretch must hold three whole cycles and at least 8 tokens (so that a
    few line breaks do not count), or two whole cycles and at least 24 tokens.

    Args:
        tokens: ids of the text.
        longest_period: tokens of the longest cycle that is looked for.

    Returns:
        The index of the second cycle, since the first one was new when it was written. None if
        the text does not end in repetition.
    """
    found = (_second_cycle(tokens, period) for period in range(1, longest_period + 1))
    return min((start for start in found if start is not None), default=None)


def _second_cycle(tokens: Sequence[int], period: int) -> int | None:
    """Index of the second cycle if `tokens` ends in a repetition of this period, else None."""
    start = len(tokens)
    while start > period and tokens[start - 1] == tokens[start - 1 - period]:
        start -= 1
    length = len(tokens) - start + period  # the first cycle included
    enough = max(MIN_CYCLES * period, MIN_TOKENS)
    enough_of_two = max(2 * period, MIN_TOKENS_OF_TWO_CYCLES)
    return start if length >= min(enough, enough_of_two) else None
