"""Times of the same texts in two runs, compared prompt by prompt.

The speedup differs more between prompts than between runs. Where a run and an earlier one decoded
the same texts, each text's speedup is divided by its own earlier one, and the spread between
prompts cancels. What is left is the noise of either run, and the true change.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

from skipopt.measurement.runners import PLAIN
from skipopt.measurement.timing import Sample
from skipopt.measurement.workload import Workload
from skipopt.stats import Estimate, trimmed_mean

MIN_PROMPTS = 3  # below, single ratios count as values


class Pair(NamedTuple):
    """Wall time in seconds of one text, decoded plainly and by the method, one after the other."""

    plain: float
    method: float

    @property
    def log_speedup(self) -> float:
        return math.log(self.plain / self.method)


# For each text (see `text_key`) the times of its repeats. In repeats of even number, prompts of
# even number were decoded plainly first, in those of odd number by the method (`run_order`).
TextTimes = Mapping[str, Mapping[int, Pair]]


def text_key(prompt: Sequence[int], new_tokens: Sequence[int]) -> str:
    """Names a text: 16 hexadecimal digits."""
    ids = json.dumps([list(prompt), list(new_tokens)])
    return hashlib.sha256(ids.encode()).hexdigest()[:16]


def text_keys(workload: Workload) -> list[str]:
    """The names of a workload's texts, in order."""
    pairs = zip(workload.prompts, workload.references, strict=True)
    return [text_key(prompt, reference) for prompt, reference in pairs]


def times_of(samples: Sequence[Sample], keys: Sequence[str], reference: str = PLAIN) -> TextTimes:
    """The times of the reference and of the only other runner, where both decoded a text.

    Args:
        reference: name of the runner that speedups are over; its times stand as `plain`.
    """
    times = [(s.runner, s.prompt, s.repeat, s.decoding.total_seconds) for s in samples]
    return pair_times(times, keys, reference)


def pair_times(
    times: Sequence[tuple[str, int, int, float]], keys: Sequence[str], reference: str = PLAIN
) -> dict[str, dict[int, Pair]]:
    """From (runner, index of the prompt, repeat, seconds) of the reference and another runner."""
    plain = {(p, r): seconds for runner, p, r, seconds in times if runner == reference}
    method = {(p, r): seconds for runner, p, r, seconds in times if runner != reference}
    found: dict[str, dict[int, Pair]] = defaultdict(dict)
    for p, r in sorted(plain.keys() & method.keys()):
        found[keys[p]][r] = Pair(plain[p, r], method[p, r])
    return dict(found)


def log_speedup(pair: Pair) -> float:
    """ln(time of plain decoding ÷ time of the method)."""
    return pair.log_speedup


def log_plain(pair: Pair) -> float:
    """ln(seconds of plain decoding)."""
    return math.log(pair.plain)


def change(now: TextTimes, then: TextTimes, value: Callable[[Pair], float]) -> Estimate | None:
    """The mean change of `value` on the texts of both runs; None if there are none.

    A change is taken between repeats of the same order, because what a runner follows changes its
    time. Outlying texts count little (`trimmed_mean`).
    """
    changes = [_changes(now[key], then[key], value) for key in now if key in then]
    changes = [each for each in changes if each]
    if not changes:
        return None
    if len(changes) < MIN_PROMPTS:
        return trimmed_mean([each for text in changes for each in text])
    return trimmed_mean([fmean(each) for each in changes])


def mean_log_speedup(now: TextTimes) -> Estimate:
    """The mean over these very texts; its error is that of measurement alone.

    The error comes from repeats of a text. Where none has two, it comes from the spread between
    texts, which is larger.
    """
    texts = [[log_speedup(pair) for pair in repeats.values()] for repeats in now.values()]
    degrees = sum(len(each) - 1 for each in texts)
    if not degrees:
        return speedup_of_other_texts(now)
    squares = sum((each - fmean(text)) ** 2 for text in texts for each in text)
    spread = squares / degrees * sum(1 / len(text) for text in texts)
    return Estimate(fmean(map(median, texts)), math.sqrt(spread) / len(texts), degrees)


def speedup_of_other_texts(now: TextTimes) -> Estimate:
    """The mean over all texts that these are a sample of; the spread between them is an error."""
    texts = [[log_speedup(pair) for pair in repeats.values()] for repeats in now.values()]
    if len(texts) < MIN_PROMPTS:
        return trimmed_mean([each for text in texts for each in text])
    return trimmed_mean([median(text) for text in texts])


def _changes(
    now: Mapping[int, Pair], then: Mapping[int, Pair], value: Callable[[Pair], float]
) -> list[float]:
    """The change of one text, for each order in which both runs decoded it."""
    found = []
    for order in (0, 1):
        after, before = (
            [value(each[repeat]) for repeat in each if repeat % 2 == order] for each in (now, then)
        )
        if after and before:
            found.append(median(after) - median(before))
    return found
