"""The regression gate of `skipopt check`: fails if a profile is not lossless or lost its speedup.

Blocks of paired timings are added until the verdict is clear (`speed_verdict`) or the time is up.
The time bounds everything: reference texts, the comparison of texts, first texts and timing. Each
part has a share, and where it is used up, the rest is done with the prompts decoded by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import resolve_method
from skipopt.errors import UsageError
from skipopt.measurement import metrics
from skipopt.measurement.lossless import ComparedText, LosslessReport, check_texts
from skipopt.measurement.methods_table import end_to_end_json, first_texts
from skipopt.measurement.metrics import EndToEnd
from skipopt.measurement.paired_texts import text_keys, times_of
from skipopt.measurement.prompts import AnyPrompts, encode_any
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import PLAIN, SkipoptRunner, make_runners
from skipopt.measurement.speed_verdict import Kept, Look, SpeedRule, Verdict
from skipopt.measurement.threshold import (
    Baseline,
    Subject,
    Threshold,
    choose_threshold,
    threshold_against,
)
from skipopt.measurement.timing import (
    Clock,
    ProgressCallback,
    Runner,
    Sample,
    Timer,
    device_clock,
    ignore_progress,
)
from skipopt.measurement.workload import Workload, make_workload
from skipopt.stats import Interval

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.profile import Profile

REFERENCE = "reference"  # name of the runner of another profile
REPEATS_PER_BLOCK = 2  # one in each order: AB and BA
NO_TIME = "the time was up before a text was timed; a longer --timeout would help"

# Shares of the time that are used up at the end of each part; the rest is for timing.
REFERENCE_SHARE = 0.2  # plain continuations of the prompts
COMPARISON_SHARE = 0.4  # the method's
FIRST_TEXTS_SHARE = 0.5  # texts in a fresh state


@dataclass(frozen=True, slots=True, repr=False)
class CheckResult:
    """The result of `check`; `reason` explains the verdict in one line.

    The verdict is about `end_to_end`, the wall time of whole texts with their prefill; `speedup`
    is of decoding alone, and `first_text` of texts for which nothing was captured before.

    A profile that is not lossless fails, whatever its speed; it is not timed if its first texts
    differ. A profile with `enabled: false` decodes plainly and passes without measurement.

    Attributes:
        kept: the change since the baseline; None if its texts are not compared.
        texts: names of the texts that were timed, by the number of the prompt in `samples`.
        against: method and settings of the profile that speedups are over; None: over plain
            decoding.
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
    kept: Kept | None = None
    texts: tuple[str, ...] = ()
    against: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"CheckResult({self.verdict}: {self.reason})"

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
            "kept": self.kept and self.kept.to_json(),
            "baseline": self.threshold.to_json(),
            "against": self.against and dict(self.against),
            "lossless": self.lossless and self.lossless.to_json(),
            "acceptance_rate": self.acceptance_rate,
            "environment": dict(self.environment),
            "texts": list(self.texts),
            "samples": [{"method": s.runner, **s.to_json()} for s in self.samples],
        }


def check(
    target: Target,
    profile: Profile,
    prompts: AnyPrompts | None = None,
    *,
    min_speedup: float = 1.0,
    tolerance: float = 0.05,
    baseline: Baseline | str | Path | None = None,
    against: Profile | None = None,
    max_new_tokens: int = 64,
    timeout: float = 120.0,
    min_repeats: int = REPEATS_PER_BLOCK,
    on_progress: ProgressCallback = ignore_progress,
) -> CheckResult:
    """Compare a profile with plain decoding, or with another profile, on this machine.

    Args:
        prompts: as for `bench`.
        min_speedup: the least speedup, whatever the baseline.
        tolerance: share of the baseline's speedup that may be lost, 0.05 for 5 %.
        baseline: an earlier `check --json` of the same model, or a profile of it; None: the
            profile itself.
        against: another profile of the model, timed in place of plain decoding; no baseline is
            then used, and `tolerance` is the share of its speed that may be lost. Texts are
            compared with those of plain decoding as always.
        max_new_tokens: greedy tokens of each text; fewer if it ends or repeats itself before.
        timeout: seconds; no text starts that would probably end later.
        min_repeats: of each text, while time allows, even if the verdict is clear before.
        on_progress: called with elapsed seconds and `timeout`.

    Raises:
        PromptError: no prompt's continuation is long enough to be timed.
        ProfileError: the profile is for another model.
        SkipoptError: the baseline cannot be read, or is of another model or other lengths.
        UsageError: a number out of range, or `against` together with a baseline.
    """
    if not 0 < timeout < float("inf"):
        raise UsageError(f"timeout must be finite and above 0, not {timeout:g}")
    profile.check_model(target)
    if against is not None and baseline is not None:
        raise UsageError("another profile and a baseline at once", hint="give one of them")
    compared = _baseline(baseline, profile)
    ids = encode_any(target, prompts).ids
    subject = Subject.of(target, ids, max_new_tokens)
    compared.check_subject(subject)
    environment = environment_of(target)
    if against is None:
        threshold = choose_threshold(
            compared, environment, min_speedup, tolerance, subject.prompts
        )
    else:
        threshold = threshold_against(min_speedup, tolerance)
    method = resolve_method(profile, None)
    if method.name == PLAIN and against is None:
        reason = f"the profile decodes plainly: {profile.reason or 'speculation is off'}"
        return CheckResult("pass", reason, threshold, environment, subject)
    time_limit = TimeLimit(device_clock(target.device), timeout, on_progress)
    runners = make_runners(target, [PLAIN, str(method)], profile)
    plain, runner = runners[0], runners[-1]  # the same where the profile decodes plainly
    reference: Runner = plain if against is None else _reference(target, against)
    return check_runners(
        target, plain, runner, ids, threshold, max_new_tokens, time_limit, min_repeats, reference
    )


def _reference(target: Target, profile: Profile) -> SkipoptRunner:
    """The runner of another profile, under a name that no method has."""
    profile.check_model(target)
    return SkipoptRunner(target, resolve_method(profile, None), profile, name=REFERENCE)


def _baseline(given: Baseline | str | Path | None, profile: Profile) -> Baseline:
    if given is None:
        return Baseline.of(profile)
    return given if isinstance(given, Baseline) else Baseline.load(Path(given))


class TimeLimit:
    """Measures elapsed seconds against a limit and reports them as progress."""

    def __init__(
        self, clock: Clock, limit: float, on_progress: ProgressCallback = ignore_progress
    ) -> None:
        self.clock = clock
        self.limit = limit
        self._began = self._reported = clock()
        self._longest = self._last = 0.0
        self._on_progress = on_progress

    def spent(self) -> float:
        return self.clock() - self._began

    def is_used(self, share: float = 1.0) -> bool:
        """Whether so large a share of the limit is used up."""
        return self.spent() >= share * self.limit

    def fits(self, steps: int) -> bool:
        """Whether so many steps as long as the last one would end in time."""
        return self.spent() + steps * self._last <= self.limit

    def is_late(self) -> bool:
        """Whether one more step, as long as the longest of them, would end too late."""
        return self.spent() + self._longest > self.limit

    def start_steps(self) -> None:
        """Judge `is_late` by the length of the next steps, and by that of the last one before."""
        self._longest, self._reported = self._last, self.clock()

    def report(self) -> None:
        """One step has ended."""
        now = self.clock()
        self._last, self._reported = now - self._reported, now
        self._longest = max(self._longest, self._last)
        self._on_progress(min(self.spent(), self.limit), self.limit)


def check_runners(
    target: Target,
    plain: Runner,
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    threshold: Threshold,
    max_new_tokens: int,
    time_limit: TimeLimit,
    min_repeats: int = REPEATS_PER_BLOCK,
    reference: Runner | None = None,
) -> CheckResult:
    """Compare `runner` with `plain`: first the texts, then the speed.

    Args:
        reference: another runner that the speed is compared with; None: `plain`.
    """
    reference = reference or plain
    subject, environment = Subject.of(target, prompts, max_new_tokens), environment_of(target)
    workload = _references(plain, prompts, max_new_tokens, time_limit)
    texts = [] if workload is None else _texts(runner, workload, time_limit)
    if workload is None or not texts:
        return CheckResult("inconclusive", NO_TIME, threshold, environment, subject)
    workload = workload.first(len(texts))
    lossless = check_texts(target, texts)
    if lossless.verdict == "failed":
        reason = _not_lossless(lossless)
        return CheckResult("fail", reason, threshold, environment, subject, lossless=lossless)
    timer = Timer([reference, runner], workload.prompts, workload.lengths, time_limit.clock)
    number = first_texts(target, len(workload.prompts))
    timer.run_first_texts(
        number,
        time_limit.report,
        lambda: time_limit.is_used(FIRST_TEXTS_SHARE) or not time_limit.fits(2),
    )
    keys = text_keys(workload)
    look = _time(timer, keys, threshold.rule, time_limit, min_repeats, reference.name)
    own, first = (
        metrics.samples_of(samples, runner.name) for samples in (timer.samples, timer.first_texts)
    )
    # The timed texts are compared too, because an error may occur in some runs only.
    lossless = check_texts(target, [*texts, *workload.compared_texts([*first, *own])])
    missing = len(prompts) - workload.skipped_prompts - len(workload.prompts)
    verdict, reason = _verdict(look, lossless, missing)
    return CheckResult(
        verdict,
        reason,
        threshold,
        environment,
        subject,
        metrics.speedup(timer.samples, runner.name, reference.name) if look else None,
        metrics.end_to_end(timer.samples, runner.name, reference.name),
        metrics.end_to_end(timer.first_texts, runner.name, reference.name),
        lossless,
        metrics.acceptance_rate(own),
        tuple(timer.samples),
        look.kept if look else None,
        tuple(keys),
        None if reference is plain else _facts(reference),
    )


def _facts(reference: Runner) -> dict[str, Any]:
    """The key `against` of `check --json`."""
    spec = getattr(reference, "spec", reference.name)
    return {"method": str(spec), "settings": reference.settings}


def _time(
    timer: Timer,
    keys: Sequence[str],
    rule: SpeedRule,
    time_limit: TimeLimit,
    min_repeats: int,
    reference: str,
) -> Look | None:
    """Time blocks until the verdict is clear or the time is up; None if no text was timed."""
    import scipy.special  # noqa: F401  (loaded before texts are timed)

    if time_limit.is_used() or not time_limit.fits(2 * len(timer.runners)):
        return None  # no time to warm up and to time one text
    timer.warm_up()
    time_limit.start_steps()
    for number in count(1):
        for _ in range(REPEATS_PER_BLOCK):
            for _prompt in timer.iter_repeat(time_limit.report, time_limit.is_late):
                pass
        is_last = time_limit.is_late()
        now = times_of(timer.samples, keys, reference)
        if not now:
            return None
        look = rule.look(now, number, is_last)
        enough = REPEATS_PER_BLOCK * number >= min_repeats
        if is_last or (enough and look.verdict != "inconclusive"):
            return look
    raise AssertionError("blocks end with the time")


def _references(
    plain: Runner, prompts: Sequence[Sequence[int]], max_new_tokens: int, time_limit: TimeLimit
) -> Workload | None:
    """The plain continuations of the prompts for which there is time; None if there is none."""
    found: list[Sequence[int]] = []
    for prompt in prompts:
        if time_limit.is_used(REFERENCE_SHARE):
            break
        found.append(plain.decode(prompt, max_new_tokens, time_limit.clock).tokens)
        time_limit.report()
    if not found:
        return None
    decoded = iter(found)
    return make_workload(prompts[: len(found)], lambda _prompt: next(decoded))


def _texts(runner: Runner, workload: Workload, time_limit: TimeLimit) -> list[ComparedText]:
    """The runner's continuations of the prompts for which there is time."""
    found: list[ComparedText] = []
    for prompt, reference in zip(workload.prompts, workload.references, strict=True):
        if time_limit.is_used(COMPARISON_SHARE):
            break
        own = runner.decode(prompt, len(reference), time_limit.clock).tokens
        found.append(ComparedText(prompt, reference, own))
        time_limit.report()
    return found


def _verdict(look: Look | None, lossless: LosslessReport, missing: int) -> tuple[Verdict, str]:
    """The verdict and its reason; `missing` prompts were not decoded for want of time."""
    if lossless.verdict == "failed":
        return "fail", _not_lossless(lossless)
    if look is None:
        return "inconclusive", NO_TIME
    left_out = f"; there was no time for {missing} prompts" if missing else ""
    return look.verdict, look.reason + left_out


def _not_lossless(lossless: LosslessReport) -> str:
    return f"not lossless: {lossless.failed} of {lossless.total} texts differ from plain decoding"
