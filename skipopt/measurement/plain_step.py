"""What a plain step costs where a text ends: an estimate of the speedup without a second text."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipopt.decoding.prefix_cache import PrefixCache
    from skipopt.decoding.text import TextStatistics

STEPS = 5


def estimated_speedup(cache: PrefixCache, answer: TextStatistics) -> float | None:
    """Time of as many plain steps at the end of the text, over the decoding time of the answer.

    Steps at the end of a long answer cost a little more than those at its beginning.

    Args:
        cache: the text of the answer.

    Returns:
        None where it cannot be told: plain decoding, an answer without tokens, and models with
        recurrent layers, which would read tokens again.
    """
    engine, tokens = cache.engine, answer.rounds.new_tokens
    if engine is None or engine.states is not None or not tokens or not answer.seconds:
        return None
    if answer.method == "plain" or not cache.tokens:
        return None
    return plain_step_seconds(cache) * tokens / answer.seconds


def plain_step_seconds(cache: PrefixCache) -> float:
    """Median seconds of a step over the last token; the cache is left as it was."""
    engine = cache.engine
    assert engine is not None, "there is a text"
    position, last = engine.position, cache.tokens[-1]
    seconds: list[float] = []
    with engine.target.runtime.lock:
        for _ in range(1 + STEPS):
            began = time.perf_counter()
            int(engine.step([last])[-1].argmax())
            seconds.append(time.perf_counter() - began)
            engine.rewind(position)
    return median(seconds[1:])  # the first one may capture the step
