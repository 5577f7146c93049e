"""A method on held-out texts: end-to-end speedup over plain decoding, paired and interleaved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean
from typing import Any

from benchmarks.workloads import workload_of
from skipopt.measurement.lossless import LosslessVerdict, check_texts
from skipopt.measurement.methods_table import first_texts
from skipopt.measurement.metrics import (
    acceptance_rate,
    end_to_end,
    log_end_to_end_by_prompt,
    samples_of,
    speedup,
)
from skipopt.measurement.runners import PLAIN, SkipoptRunner
from skipopt.measurement.timing import Sample, Timer, device_clock
from skipopt.measurement.workload import Workload
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.prompts import Prompt, load_prompts
from skipopt.stats import Interval


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a method gave.

    Attributes:
        prompts: number of texts.
        speedup: of whole texts, their prefill included: median over prompts.
        mean: the geometric mean over prompts of the same.
        decoding: as `speedup`, of decoding alone.
        by_category: `speedup` on the prompts of each category.
        first_text: as `speedup`, with nothing captured or copied before; None if not measured.
        acceptance_rate: None where nothing was drafted.
        lossless: whether the texts are those of plain decoding.
    """

    prompts: int
    speedup: Interval
    mean: float
    decoding: Interval
    by_category: tuple[tuple[str, Interval], ...]
    first_text: Interval | None
    acceptance_rate: float | None
    lossless: LosslessVerdict

    def to_json(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts,
            "speedup": self.speedup.to_json(),
            "mean": self.mean,
            "decoding": self.decoding.to_json(),
            "by_category": {name: each.to_json() for name, each in self.by_category},
            "first_text": self.first_text and self.first_text.to_json(),
            "acceptance_rate": self.acceptance_rate,
            "lossless": self.lossless,
        }


def held_out_workload(target: Target, prompts: int | None, tokens: int) -> Workload:
    """The first held-out prompts of the built-in set for the model; None: all of them.

    The categories take turns in the set, so that any first few are mixed.
    """
    return workload_of(target, held_out_prompts(target)[:prompts], tokens)


def held_out_prompts(target: Target) -> Sequence[Prompt]:
    """Of the built-in set for the model; no search sees them."""
    return load_prompts(model_id=target.model_id).held_out


def timed(
    target: Target,
    runners: Sequence[SkipoptRunner],
    load: Workload,
    repeats: int,
    fresh: bool = False,
) -> Timer:
    """Decode every text plainly and with each runner.

    Args:
        runners: without plain decoding; their names differ.
        repeats: how often each of them decodes each text; even numbers balance the order.
        fresh: time first texts too, as `skipopt bench` does.
    """
    plain = SkipoptRunner(target, MethodSpec(PLAIN))
    clock = device_clock(target.device)
    timer = Timer([plain, *runners], load.prompts, load.lengths, clock)
    if fresh:
        timer.run_first_texts(first_texts(target, len(load.prompts)))
    timer.warm_up()
    timer.run(repeats)
    return timer


def result_of(target: Target, timer: Timer, name: str, load: Workload) -> HeldOut:
    """The result of one runner of a timer that has decoded all texts (see `timed`)."""
    own, first = (samples_of(each, name) for each in (timer.samples, timer.first_texts))
    whole = end_to_end(timer.samples, name, PLAIN)
    first_whole = end_to_end(timer.first_texts, name, PLAIN)
    assert whole is not None, "plain decoding has decoded every text"
    return HeldOut(
        len(load.prompts),
        whole.whole,
        exp(fmean(log_end_to_end_by_prompt(timer.samples, name, PLAIN).values())),
        speedup(timer.samples, name, PLAIN),
        by_category(timer.samples, name, load.by_category),
        first_whole.whole if first_whole else None,
        acceptance_rate(own),
        check_texts(target, load.compared_texts([*own, *first])).verdict,
    )


def by_category(
    samples: Sequence[Sample], name: str, categories: Mapping[str, Sequence[int]]
) -> tuple[tuple[str, Interval], ...]:
    """The end-to-end speedup on the prompts of each category."""
    found: list[tuple[str, Interval]] = []
    for category, prompts in categories.items():
        whole = end_to_end([s for s in samples if s.prompt in prompts], name, PLAIN)
        if whole is not None:
            found.append((category, whole.whole))
    return tuple(found)


def digits(interval: Mapping[str, float] | None) -> str:
    """`1.39 (1.35–1.43)` of an interval's JSON; empty for None."""
    if interval is None:
        return ""
    return f"{interval['median']:.2f} ({interval['low']:.2f}–{interval['high']:.2f})"
