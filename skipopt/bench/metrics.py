"""From raw samples to the figures of one contender. Knows nothing of how samples were taken."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from skipopt.bench.timing import Sample
from skipopt.stats import Interval, ratio_interval


def samples_of(samples: Sequence[Sample], name: str) -> list[Sample]:
    """The samples of one contender, in the order they were taken."""
    return [sample for sample in samples if sample.contender == name]


def tokens_per_second(samples: Sequence[Sample]) -> float:
    """Decoding speed of one contender: tokens by seconds, each prompt at its median repeat."""
    seconds: dict[int, list[float]] = defaultdict(list)
    tokens: dict[int, int] = {}
    for sample in samples:
        seconds[sample.prompt].append(sample.decoding.decode_seconds)
        tokens[sample.prompt] = sample.decoding.timed_tokens
    return sum(tokens.values()) / sum(median(each) for each in seconds.values())


def prefill_seconds(samples: Sequence[Sample]) -> float:
    """Median time from request to decoding of one contender."""
    return median(sample.decoding.prefill_seconds for sample in samples)


def speedup(samples: Sequence[Sample], name: str, against: str) -> Interval:
    """How many times faster `name` decodes a token than `against`, paired by prompt and repeat.

    Raises:
        ValueError: no prompt and repeat was decoded by both.
    """
    return ratio_interval(paired_log_ratios(samples, name, against))


def paired_log_ratios(samples: Sequence[Sample], name: str, against: str) -> list[list[float]]:
    """ln(seconds per token of `against` / of `name`): a list of repeats for each prompt."""
    own, other = (
        {(s.prompt, s.repeat): s.decoding.seconds_per_token for s in samples_of(samples, n)}
        for n in (name, against)
    )
    ratios: dict[int, list[float]] = defaultdict(list)
    for prompt, repeat in sorted(own.keys() & other.keys()):
        ratio = math.log(other[prompt, repeat] / own[prompt, repeat])
        ratios[prompt].append(ratio)
    return list(ratios.values())


def acceptance_rate(samples: Sequence[Sample]) -> float | None:
    """Accepted / drafted over all samples; None where nothing was drafted or rounds are hidden."""
    rounds = [s.decoding.statistics for s in samples if s.decoding.statistics is not None]
    drafted = sum(each.drafted for each in rounds)
    return sum(each.accepted for each in rounds) / drafted if drafted else None


def mean_acceptance_length(samples: Sequence[Sample]) -> float | None:
    """Tokens per target forward over all samples; None where rounds are hidden."""
    rounds = [s.decoding.statistics for s in samples if s.decoding.statistics is not None]
    forwards = sum(each.target_forwards for each in rounds)
    return sum(each.new_tokens for each in rounds) / forwards if forwards else None
