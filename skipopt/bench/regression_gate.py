"""The regression gate of `skipopt check`: fails if a profile is not lossless or lost its speedup.

Blocks of paired timings are added until the confidence interval of the speedup lies on one side
of the threshold, or the time limit is reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from skipopt.bench import metrics
from skipopt.bench.lossless import ComparedText, LosslessReport, check_texts
from skipopt.bench.methods_table import end_to_end_json, first_texts
from skipopt.bench.metrics import EndToEnd
from skipopt.bench.provenance import environment_of
from skipopt.bench.runners import PLAIN, make_runners
from skipopt.bench.threshold import Subject, Threshold
from skipopt.bench.timing import (
    Clock,
    ProgressCallback,
    Runner,
    Sample,
    Timer,
    device_clock,
    ignore_progress,
)
from skipopt.bench.workload import Workload, make_workload
from skipopt.decoding.api import resolve_method
from skipopt.stats import Interval

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile

Verdict = Literal["pass", "fail", "inconclusive"]

REPEATS_PER_BLOCK = 2  # one in each order: AB and BA


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of `check`; `reason` explains the verdict in one line.

    The verdict is about `end_to_end`, the wall time of whole texts with their prefill; `speedup`
    is of decoding alone, and `first_text` of texts for which nothing was captured before.

    A profile that is not lossless fails, whatever its speed; it is not timed if its first texts
    differ. A profile with `enabled: false` decodes plainly and passes without measurement.
    """

    verdict: Verdict
    reason: str
    threshold: Threshold
    environment: Mapping[str, Any]
    subject: Subject
    speedup: Interval | None = None
    end_to_end: EndToEnd | None = None
    first_text: EndToEnd | None = None
    lossless: LosslessReport | None = None
    acceptance_rate: float | None = None
    samples: tuple[Sample, ...] = ()

    @property
    def is_lossless(self) -> bool:
        """False if a text differs from plain decoding by more than the numerical margin."""
        return self.lossless is None or self.lossless.verdict != "failed"

    def to_json(self) -> dict[str, Any]:
        """The document of `check --json`."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            **self.subject.to_json(),
            "speedup": self.speedup and self.speedup.to_json(),
            **end_to_end_json(self.end_to_end, self.first_text),
            "floor": self.threshold.value,
            "baseline": self.threshold.to_json(),
            "lossless": self.lossless and self.lossless.to_json(),
            "acceptance_rate": self.acceptance_rate,
            "environment": dict(self.environment),
            "samples": [{"method": s.runner, **s.to_json()} for s in self.samples],
        }


def check(
    target: Target,
    profile: Profile,
    prompts: Sequence[Sequence[int]],
    threshold: Threshold,
    *,
    max_new_tokens: int = 64,
    max_seconds: float = 120.0,
    on_progress: ProgressCallback = ignore_progress,
) -> CheckResult:
    """Compare a profile with plain decoding on this machine.

    Args:
        prompts: token ids of each prompt.
        threshold: the speedup to keep, from `choose_threshold`.
        max_new_tokens: greedy tokens of each text; fewer if it ends or repeats itself before.
        max_seconds: no block starts that would end later, except the first.
        on_progress: called with elapsed seconds and `max_seconds`.

    Raises:
        PromptError: no prompt's continuation is long enough to be timed.
        ProfileError: the profile is for another model.
    """
    method = resolve_method(profile, None)
    if method.name == PLAIN:
        profile.check_model(target)
        reason = f"the profile decodes plainly: {profile.reason or 'speculation is off'}"
        subject = Subject.of(target, prompts, max_new_tokens)
        return CheckResult("pass", reason, threshold, environment_of(target), subject)
    plain, runner = make_runners(target, [PLAIN, str(method)], profile)
    clock = device_clock(target.device)
    return check_runners(
        target, plain, runner, prompts, threshold, max_new_tokens, max_seconds, clock, on_progress
    )


def check_runners(
    target: Target,
    plain: Runner,
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    threshold: Threshold,
    max_new_tokens: int,
    max_seconds: float,
    clock: Clock,
    on_progress: ProgressCallback = ignore_progress,
) -> CheckResult:
    """Compare `runner` with `plain`: first the texts, then the speed."""
    budget = _TimeBudget(clock, max_seconds, on_progress)
    workload = make_workload(prompts, lambda p: plain.decode(p, max_new_tokens, clock).tokens)
    texts = _texts(runner, workload, clock)
    lossless = check_texts(target, texts)
    subject, environment = Subject.of(target, prompts, max_new_tokens), environment_of(target)
    if lossless.verdict == "failed":
        reason = _not_lossless(lossless)
        return CheckResult("fail", reason, threshold, environment, subject, lossless=lossless)
    timer = Timer([plain, runner], workload.prompts, workload.lengths, clock)
    timer.run_first_texts(first_texts(target, len(workload.prompts)), budget.report)
    timer.warm_up()
    end_to_end = _time(timer, runner.name, threshold, budget)
    own, first = (
        metrics.samples_of(samples, runner.name) for samples in (timer.samples, timer.first_texts)
    )
    # The timed texts are compared too, because an error may occur in some runs only.
    lossless = check_texts(target, [*texts, *workload.compared_texts([*first, *own])])
    verdict, reason = verdict_of(end_to_end.whole, threshold.value)
    if lossless.verdict == "failed":
        verdict, reason = "fail", _not_lossless(lossless)
    return CheckResult(
        verdict,
        reason,
        threshold,
        environment,
        subject,
        metrics.speedup(timer.samples, runner.name, PLAIN),
        end_to_end,
        metrics.end_to_end(timer.first_texts, runner.name, PLAIN),
        lossless,
        metrics.acceptance_rate(own),
        tuple(timer.samples),
    )


def verdict_of(interval: Interval, threshold: float) -> tuple[Verdict, str]:
    """The verdict and its reason: on which side of the threshold the interval lies."""
    speedup = (
        f"end-to-end speedup {interval.median:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    )
    match interval.side_of(threshold):
        case "above":
            return "pass", f"{speedup} keeps the threshold of {threshold:.3f}"
        case "below":
            return "fail", f"{speedup} is below the threshold of {threshold:.3f}"
        case "straddles":
            return (
                "inconclusive",
                f"{speedup} is on both sides of the threshold of {threshold:.3f}",
            )


def _time(timer: Timer, name: str, threshold: Threshold, budget: _TimeBudget) -> EndToEnd:
    """Time blocks until the verdict is clear or no time is left for another block."""
    while True:
        before = budget.spent()
        timer.run(REPEATS_PER_BLOCK, budget.report)
        found = metrics.end_to_end(timer.samples, name, PLAIN)
        assert found is not None, "both runners have decoded every prompt"
        after = budget.spent()
        decided = found.whole.side_of(threshold.value) != "straddles"
        if decided or after + (after - before) > budget.limit:
            return found


def _texts(runner: Runner, workload: Workload, clock: Clock) -> list[ComparedText]:
    """The runner's continuation of every prompt."""
    return [
        ComparedText(prompt, reference, runner.decode(prompt, len(reference), clock).tokens)
        for prompt, reference in zip(workload.prompts, workload.references, strict=True)
    ]


def _not_lossless(lossless: LosslessReport) -> str:
    return f"not lossless: {lossless.failed} of {lossless.total} texts differ from plain decoding"


class _TimeBudget:
    """Measures elapsed seconds against a limit and reports them as progress."""

    def __init__(self, clock: Clock, limit: float, on_progress: ProgressCallback) -> None:
        self.limit = limit
        self._clock = clock
        self._began = clock()
        self._on_progress = on_progress

    def spent(self) -> float:
        return self._clock() - self._began

    def report(self) -> None:
        self._on_progress(min(self.spent(), self.limit), self.limit)
