"""Metrics of one runner, computed from the raw samples of a `Timer`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, TypeVar

from skipopt.measurement.timing import LENGTHS, Decoding, Sample
from skipopt.rounds import Statistics
from skipopt.stats import Interval, ratio_interval

DRAFTED = "drafted"  # the source of drafts that have no sources

Timed = TypeVar("Timed")
# ln(seconds of the second ÷ those of the first); None where they cannot be compared.
LogRatio = Callable[[Decoding, Decoding], float | None]


def samples_of(samples: Sequence[Sample], name: str) -> list[Sample]:
    """The samples of one runner, in the order in which they were taken."""
    return [sample for sample in samples if sample.runner == name]


def tokens_per_second(samples: Sequence[Sample]) -> float:
    """Decoding speed of one runner."""
    return median_speed(
        (each.prompt, each.decoding.timed_tokens, each.decoding.decode_seconds) for each in samples
    )


def median_speed(timings: Iterable[tuple[int, int, float]]) -> float:
    """All tokens ÷ all seconds, with the median time of each prompt or batch.

    Args:
        timings: (index of the prompt or batch, tokens, seconds) of each decoding.
    """
    seconds: dict[int, list[float]] = defaultdict(list)
    tokens: dict[int, int] = {}
    for index, count, time in timings:
        seconds[index].append(time)
        tokens[index] = count
    return sum(tokens.values()) / sum(median(each) for each in seconds.values())


def prefill_seconds(samples: Sequence[Sample]) -> float:
    """Median prefill time of one runner."""
    return median(sample.decoding.prefill_seconds for sample in samples)


def speedup(samples: Sequence[Sample], name: str, against: str) -> Interval:
    """Speed of `name` ÷ speed of `against`, paired by prompt and repeat.

    Raises:
        ValueError: no prompt and repeat was decoded by both.
    """
    return ratio_interval(paired_log_ratios(samples, name, against))


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """Wall time of `against` ÷ that of a runner, from the request on, paired.

    Attributes:
        whole: of whole texts.
        at: (new tokens, ratio of the times up to these), for the lengths that texts reach.
    """

    whole: Interval
    at: tuple[tuple[int, Interval], ...] = ()

    def to_json(self, key: str) -> dict[str, Any]:
        """The keys `KEY` and `KEY_at`."""
        at = {str(length): interval.to_json() for length, interval in self.at}
        return {key: self.whole.to_json(), f"{key}_at": at}


def end_to_end(samples: Sequence[Sample], name: str, against: str) -> EndToEnd | None:
    """Ratios of wall time; None if no prompt and repeat was decoded by both.

    Sampled texts of one prompt may differ in length. Both are then timed up to the length of the
    shorter one.
    """
    whole = _paired(samples, name, against, _whole_ratio)
    if not whole:
        return None
    at = {n: _paired(samples, name, against, partial(_ratio_up_to, n)) for n in LENGTHS}
    by_length = tuple((n, ratio_interval(ratios)) for n, ratios in at.items() if ratios)
    return EndToEnd(ratio_interval(whole), by_length)


def _whole_ratio(own: Decoding, other: Decoding) -> float | None:
    """ln(wall time of `other` ÷ that of `own`) of whole texts, up to the length of both."""
    lengths = len(own.tokens), len(other.tokens)
    if lengths[0] != lengths[1]:
        return _ratio_up_to(min(lengths), own, other)
    return math.log(other.total_seconds / own.total_seconds)


def _ratio_up_to(new_tokens: int, own: Decoding, other: Decoding) -> float | None:
    """The same up to so many new tokens; None where a text is shorter."""
    seconds, other_seconds = (each.seconds_to(new_tokens) for each in (own, other))
    if seconds is None or other_seconds is None:
        return None
    return math.log(other_seconds / seconds)


def _decoding_ratio(own: Decoding, other: Decoding) -> float:
    """ln(seconds per token of `other` ÷ those of `own`)."""
    return math.log(other.seconds_per_token / own.seconds_per_token)


def speedup_by_category(
    samples: Sequence[Sample],
    name: str,
    against: str,
    categories: Mapping[str, Collection[int]],
) -> dict[str, Interval]:
    """`speedup` on the prompts of each category.

    Args:
        categories: indices of the prompts of each category.
    """
    own = {
        category: [sample for sample in samples if sample.prompt in prompts]
        for category, prompts in categories.items()
    }
    return {category: speedup(found, name, against) for category, found in own.items()}


def paired_log_ratios(samples: Sequence[Sample], name: str, against: str) -> list[list[float]]:
    """ln(seconds per token of `against` ÷ those of `name`): for each prompt its repeats."""
    return _paired(samples, name, against, _decoding_ratio)


def log_end_to_end_by_prompt(
    samples: Sequence[Sample], name: str, against: str
) -> dict[int, float]:
    """ln(wall time of `against` ÷ that of `name`) of whole texts: the median over repeats."""
    found = _paired_by_prompt(samples, name, against, _whole_ratio)
    return {prompt: median(ratios) for prompt, ratios in found.items()}


def prefill_share(samples: Sequence[Sample], name: str) -> float:
    """Share of a runner's wall time that is not decoding."""
    own = [sample.decoding for sample in samples_of(samples, name)]
    return 1 - sum(d.decode_seconds for d in own) / sum(d.total_seconds for d in own)


def _paired(
    samples: Sequence[Sample], name: str, against: str, log_ratio: LogRatio
) -> list[list[float]]:
    """For each prompt the ratios of its repeats."""
    return list(_paired_by_prompt(samples, name, against, log_ratio).values())


def _paired_by_prompt(
    samples: Sequence[Sample], name: str, against: str, log_ratio: LogRatio
) -> dict[int, list[float]]:
    own, other = (
        {(s.prompt, s.repeat): s.decoding for s in samples_of(samples, n)} for n in (name, against)
    )
    return paired_by_index(own, other, log_ratio)


def paired_by_index(
    own: Mapping[tuple[int, int], Timed],
    other: Mapping[tuple[int, int], Timed],
    log_ratio: Callable[[Timed, Timed], float | None],
) -> dict[int, list[float]]:
    """For each prompt or batch the ratios of the repeats that both have.

    Args:
        own, other: decodings by (index of the prompt or batch, repeat).
    """
    ratios: dict[int, list[float]] = defaultdict(list)
    for index, repeat in sorted(own.keys() & other.keys()):
        ratio = log_ratio(own[index, repeat], other[index, repeat])
        if ratio is not None:
            ratios[index].append(ratio)
    return ratios


def acceptance_rate(samples: Sequence[Sample]) -> float | None:
    """Accepted ÷ drafted over all samples; None if nothing was drafted or reported."""
    total = _statistics(samples)
    return total.acceptance_rate if total else None


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """Drafted tokens of one source, for 100 new tokens.

    Attributes:
        drafted: verified.
        accepted: of these.
    """

    drafted: float
    accepted: float


def drafts_by_source(samples: Sequence[Sample]) -> dict[str, SourceCounts]:
    """By source, in the order in which they occur; drafts without sources are `drafted`."""
    drafted, accepted = Counter[str](), Counter[str]()
    new_tokens = 0
    for each in (round_ for sample in samples for round_ in sample.decoding.rounds):
        sources = each.sources or (DRAFTED,) * len(each.drafted)
        path = each.path or range(each.accepted)
        drafted.update(sources)
        accepted.update(sources[i] for i in path)
        new_tokens += len(each.emitted)
    share = 100 / max(1, new_tokens)
    return {
        name: SourceCounts(share * count, share * accepted[name])
        for name, count in drafted.items()
    }


def mean_acceptance_length(samples: Sequence[Sample]) -> float | None:
    """Tokens per target forward over all samples; None if the runner reports no rounds."""
    total = _statistics(samples)
    return total.mean_acceptance_length if total else None


def acceptance_by_position(samples: Sequence[Sample]) -> tuple[float, ...]:
    """By position in a draft, the share of drafting rounds with a token accepted there."""
    total = _statistics(samples)
    return total.acceptance_by_position if total and total.drafting_rounds else ()


def seconds_by_phase(samples: Sequence[Sample]) -> dict[str, float]:
    """Seconds per new token: `prefill`, `draft`, `verify`, and `other` work between forwards.

    Without rounds, all of decoding is `decode`.
    """
    tokens = sum(each.decoding.timed_tokens for each in samples)
    total = sum(each.decoding.decode_seconds for each in samples)
    prefill = sum(each.decoding.prefill_seconds for each in samples)
    if not tokens:
        return {}
    found = _statistics(samples)
    if found is None or not found.verify_seconds:
        return {"prefill": prefill / tokens, "decode": total / tokens}
    draft, verify = found.draft_seconds / tokens, found.verify_seconds / tokens
    other = max(0.0, total / tokens - draft - verify)
    return {"prefill": prefill / tokens, "draft": draft, "verify": verify, "other": other}


def _statistics(samples: Sequence[Sample]) -> Statistics | None:
    rounds = [each for sample in samples for each in sample.decoding.rounds]
    return Statistics.of(rounds) if rounds else None
