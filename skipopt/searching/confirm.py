"""The best few candidates decode for real, against plain decoding, in paired interleaved runs.

Knows nothing of how the candidates were found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from skipopt.benchmarking.contenders import PLAIN, Own
from skipopt.benchmarking.figures import (
    acceptance_rate,
    block_efficiency,
    samples_of,
    speedup,
    tokens_per_second,
)
from skipopt.benchmarking.lossless import Outcome, Text, judge_texts
from skipopt.benchmarking.statistics import Interval
from skipopt.benchmarking.timing import Clock, Decoding, Promise, Timer, device_clock
from skipopt.benchmarking.workload import Workload
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.profile import Profile

FINAL_REPEATS = 4


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What real decoding said of the candidate of that index."""

    index: int
    speedup: Interval
    acceptance_rate: float | None
    block_efficiency: float
    plain_tokens_per_second: float
    tokens_per_second: float
    lossless: Outcome

    def to_facts(self) -> dict[str, Any]:
        """The profile's `measured`."""
        facts = {field: getattr(self, field) for field in self.__slots__ if field != "index"}
        return {**facts, "speedup": self.speedup.to_json()}


@dataclass(frozen=True, slots=True)
class _Finalist:
    """A candidate under a name of its own."""

    name: str
    method: Own
    may_fail: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        return self.method.settings

    @property
    def promise(self) -> Promise:
        return self.method.promise

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        self.method.warm_up(prompt, max_new_tokens, clock)

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        return self.method.decode(prompt, max_new_tokens, clock)


def confirm(
    target: Target,
    candidates: Sequence[Profile],
    workload: Workload,
    time_is_up: Callable[[], bool],
    on_step: Callable[[], None],
) -> list[Confirmed]:
    """Decode all candidates once; then the two best again, while there is time.

    Best is whose interval has the highest lower end: a mask that is fast on some prompts and
    slow on others is worth less than one that can be relied on.

    Returns:
        The two, best first.
    """
    finalists = {f"finalist-{i}": p for i, p in enumerate(candidates)}
    plain = Own(target, MethodSpec(PLAIN))
    timer = Timer(
        [
            plain,
            *(
                _Finalist(n, Own(target, MethodSpec("layer-skip"), p))
                for n, p in finalists.items()
            ),
        ],
        workload.prompts,
        workload.lengths,
        device_clock(target.device),
    )
    timer.warm_up()
    timer.run_repeat(on_step)
    best = sorted(finalists, key=lambda name: -speedup(timer.samples, name, PLAIN).low)[:2]
    timer.contenders = [c for c in timer.contenders if c.name in (PLAIN, *best)]
    for _ in range(FINAL_REPEATS):
        if time_is_up():
            break
        timer.run_repeat(on_step)
    confirmed = [_confirmed(target, timer, name, workload) for name in best]
    return sorted(confirmed, key=lambda c: -c.speedup.low)


def _confirmed(target: Target, timer: Timer, name: str, workload: Workload) -> Confirmed:
    own = samples_of(timer.samples, name)
    texts = (
        Text(workload.prompts[s.prompt], workload.references[s.prompt], s.decoding.tokens)
        for s in own
    )
    return Confirmed(
        int(name.rpartition("-")[2]),
        speedup(timer.samples, name, PLAIN),
        acceptance_rate(own),
        block_efficiency(own) or 1.0,
        tokens_per_second(samples_of(timer.samples, PLAIN)),
        tokens_per_second(own),
        judge_texts(target, texts).verdict,
    )
