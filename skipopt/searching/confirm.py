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
from skipopt.trained.artefact import shipped

FINAL_REPEATS = 4


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What real decoding said of a method with the candidate of that index."""

    index: int
    method: str
    speedup: Interval
    acceptance_rate: float | None
    block_efficiency: float
    plain_tokens_per_second: float
    tokens_per_second: float
    lossless: Outcome

    def to_facts(self) -> dict[str, Any]:
        """The profile's `measured`."""
        fields = [field for field in self.__slots__ if field not in ("index", "method")]
        return {**{f: getattr(self, f) for f in fields}, "speedup": self.speedup.to_json()}


@dataclass(frozen=True, slots=True)
class _Finalist:
    """A way to decode with a candidate, under a name of its own."""

    name: str
    index: int
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
    """Decode all candidates and other methods once; then the two best again, while there is time.

    Best is whose interval has the highest lower end: what is fast on some prompts and slow on
    others is worth less than what can be relied on. Methods that need a mask take that of the
    first candidate.

    Returns:
        All of them, best first; the two best have been decoded most.
    """
    finalists = [
        _Finalist(f"finalist-{i}", i, Own(target, MethodSpec("layer-skip"), profile))
        for i, profile in enumerate(candidates)
    ]
    everyone = [*finalists, *_rivals(target, candidates[0])]
    plain = Own(target, MethodSpec(PLAIN))
    clock = device_clock(target.device)
    timer = Timer([plain, *everyone], workload.prompts, workload.lengths, clock)
    timer.warm_up()
    timer.run_repeat(on_step)
    best = sorted(everyone, key=lambda f: -speedup(timer.samples, f.name, PLAIN).low)[:2]
    timer.contenders = [plain, *best]
    for _ in range(FINAL_REPEATS):
        if time_is_up():
            break
        timer.run_repeat(on_step)
    confirmed = [_confirmed(target, timer, each, workload) for each in everyone]
    names = [each.name for each in best]
    chosen = [c for c, each in zip(confirmed, everyone, strict=True) if each.name in names]
    others = [c for c in confirmed if c not in chosen]
    return [*_by_low(chosen), *_by_low(others)]


def _by_low(confirmed: list[Confirmed]) -> list[Confirmed]:
    return sorted(confirmed, key=lambda c: -c.speedup.low)


def _rivals(target: Target, profile: Profile) -> list[_Finalist]:
    """What else can be run at once: without training, or with heads that ship for this model."""
    names = ["prompt-lookup", "cascade"]
    if shipped("heads-ffn", target) is not None:
        names.append("blockwise")
    return [_Finalist(name, 0, Own(target, MethodSpec(name), profile)) for name in names]


def _confirmed(target: Target, timer: Timer, finalist: _Finalist, workload: Workload) -> Confirmed:
    own = samples_of(timer.samples, finalist.name)
    texts = (
        Text(workload.prompts[s.prompt], workload.references[s.prompt], s.decoding.tokens)
        for s in own
    )
    return Confirmed(
        finalist.index,
        finalist.method.name,
        speedup(timer.samples, finalist.name, PLAIN),
        acceptance_rate(own),
        block_efficiency(own) or 1.0,
        tokens_per_second(samples_of(timer.samples, PLAIN)),
        tokens_per_second(own),
        judge_texts(target, texts).verdict,
    )
