"""The regression gate: has a profile lost its exactness or its speedup?

Blocks of paired timings are added until the interval of the speedup lies on one side of the
floor, or time is up. Knows nothing of how the floor was chosen, or of how a result is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from skipopt.bench import metrics
from skipopt.bench.bench import texts_of
from skipopt.bench.lossless import ComparedText, LosslessReport, judge_texts
from skipopt.bench.provenance import environment_of
from skipopt.bench.runners import PLAIN, make_runners
from skipopt.bench.threshold import Threshold
from skipopt.bench.timing import (
    Clock,
    Progress,
    Runner,
    Sample,
    Timer,
    device_clock,
    unseen,
)
from skipopt.bench.workload import Workload, make_workload
from skipopt.decoding.api import resolve_method
from skipopt.stats import Interval

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile

VerdictName = Literal["pass", "fail", "inconclusive"]

EXIT_FAIL = 3
EXIT_INCONCLUSIVE = 4
EXIT_NOT_LOSSLESS = 5

REPEATS_A_BLOCK = 2  # one in each order: AB and BA


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What `check` found; `reason` says in words what the verdict rests on.

    A profile that is not lossless fails, whatever its speed, and is not timed. One that says
    `enabled: false` decodes plainly: there is nothing to measure, and it passes.
    """

    verdict: VerdictName
    reason: str
    floor: Threshold
    environment: Mapping[str, Any]
    speedup: Interval | None = None
    lossless: LosslessReport | None = None
    acceptance_rate: float | None = None
    samples: tuple[Sample, ...] = ()

    @property
    def exit_code(self) -> int:
        if self.lossless is not None and self.lossless.verdict == "failed":
            return EXIT_NOT_LOSSLESS
        codes = {"pass": 0, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}
        return codes[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """The document of `check --json`."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "speedup": self.speedup and self.speedup.to_json(),
            "floor": self.floor.value,
            "baseline": self.floor.to_json(),
            "lossless": self.lossless and self.lossless.to_json(),
            "acceptance_rate": self.acceptance_rate,
            "environment": dict(self.environment),
            "samples": [{"method": s.contender, **s.to_json()} for s in self.samples],
        }


def check(
    target: Target,
    profile: Profile,
    prompts: Sequence[Sequence[int]],
    floor: Threshold,
    *,
    max_new_tokens: int = 64,
    max_seconds: float = 120.0,
    on_progress: Progress = unseen,
) -> CheckResult:
    """Judge a profile against plain decoding, on this machine and now.

    Args:
        prompts: token ids of each prompt.
        floor: the speedup to keep, from `choose_floor`.
        max_new_tokens: greedy tokens of each text; less where it ends or loops before.
        max_seconds: when no further block is begun. The first is always finished.
        on_progress: called with seconds spent and `max_seconds`.

    Raises:
        PromptError: no prompt's continuation is long enough to be timed.
        ProfileError: the profile is for another model.
    """
    method = resolve_method(profile, None)
    if method.name == PLAIN:
        profile.check_model(target.architecture, target.depth, target.fingerprint)
        reason = f"the profile decodes plainly: {profile.reason or 'speculation is off'}"
        return CheckResult("pass", reason, floor, environment_of(target))
    plain, contender = make_runners(target, [PLAIN, str(method)], profile)
    clock = device_clock(target.device)
    return judge(
        target, plain, contender, prompts, floor, max_new_tokens, max_seconds, clock, on_progress
    )


def judge(
    target: Target,
    plain: Runner,
    contender: Runner,
    prompts: Sequence[Sequence[int]],
    floor: Threshold,
    max_new_tokens: int,
    max_seconds: float,
    clock: Clock,
    on_progress: Progress = unseen,
) -> CheckResult:
    """Judge one contender against another, named `plain`: exactness first, then speed."""
    stopwatch = _Stopwatch(clock, max_seconds, on_progress)
    workload = make_workload(prompts, lambda p: plain.decode(p, max_new_tokens, clock).tokens)
    texts = _texts(contender, workload, clock)
    lossless = judge_texts(target, texts)
    timer = Timer([plain, contender], workload.prompts, workload.lengths, clock)
    environment = environment_of(target)
    if lossless.verdict == "failed":
        return CheckResult("fail", _not_lossless(lossless), floor, environment, None, lossless)
    timer.warm_up()
    interval = _time(timer, contender.name, floor, stopwatch)
    own = metrics.samples_of(timer.samples, contender.name)
    # Texts of the timed decodings too: a fault need not show the first time.
    lossless = judge_texts(target, [*texts, *texts_of(own, workload)])
    verdict, reason = verdict_of(interval, floor.value)
    if lossless.verdict == "failed":
        verdict, reason = "fail", _not_lossless(lossless)
    return CheckResult(
        verdict,
        reason,
        floor,
        environment,
        interval,
        lossless,
        metrics.acceptance_rate(own),
        tuple(timer.samples),
    )


def verdict_of(interval: Interval, floor: float) -> tuple[VerdictName, str]:
    """Which side of the floor the whole interval lies on, and that in words."""
    found = f"speedup {interval.median:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    if interval.low >= floor:
        return "pass", f"{found} keeps the floor of {floor:.3f}"
    if interval.high < floor:
        return "fail", f"{found} is below the floor of {floor:.3f}"
    return "inconclusive", f"{found} lies on both sides of the floor of {floor:.3f}"


def _time(timer: Timer, name: str, floor: Threshold, stopwatch: _Stopwatch) -> Interval:
    """Add blocks until there is a verdict, or no time for another block."""
    while True:
        before = stopwatch.spent()
        for _ in range(REPEATS_A_BLOCK):
            timer.run_repeat(stopwatch.tell)
        interval = metrics.speedup(timer.samples, name, PLAIN)
        after = stopwatch.spent()
        decided = verdict_of(interval, floor.value)[0] != "inconclusive"
        if decided or after + (after - before) > stopwatch.limit:
            return interval


def _texts(contender: Runner, workload: Workload, clock: Clock) -> list[ComparedText]:
    """The contender's continuation of every prompt, beside plain decoding's."""
    return [
        ComparedText(prompt, reference, contender.decode(prompt, len(reference), clock).tokens)
        for prompt, reference in zip(workload.prompts, workload.references, strict=True)
    ]


def _not_lossless(lossless: LosslessReport) -> str:
    count = lossless.exact + lossless.within_margin + lossless.failed
    return f"not lossless: {lossless.failed} of {count} texts differ from plain decoding"


class _Stopwatch:
    """Seconds since it was made, and how many there may be."""

    def __init__(self, clock: Clock, limit: float, on_progress: Progress) -> None:
        self.limit = limit
        self._clock = clock
        self._began = clock()
        self._on_progress = on_progress

    def spent(self) -> float:
        return self._clock() - self._began

    def tell(self) -> None:
        self._on_progress(min(self.spent(), self.limit), self.limit)
