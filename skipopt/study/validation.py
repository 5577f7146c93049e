"""The best few candidates decode for real, against plain decoding, in paired interleaved runs.

Knows nothing of how the candidates were found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from skipopt.bench.lossless import LosslessVerdict, check_texts
from skipopt.bench.metrics import (
    acceptance_rate,
    mean_acceptance_length,
    paired_log_ratios,
    samples_of,
    speedup,
    tokens_per_second,
)
from skipopt.bench.runners import PLAIN, SkipoptRunner
from skipopt.bench.timing import Sample, Timer, device_clock
from skipopt.bench.workload import Workload
from skipopt.drafting.checkpoints.checkpoint import shipped
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.stats import Interval, significantly_worse

REPEATS = 3  # of the prompts, at most
FEWEST_PROMPTS = 4  # before anybody leaves
DOUBT = 0.02  # chance of a false farewell at each prompt, of which there are many
LEAST_GAIN = 0.02  # less does not pay
# Chance of a false "slower" among those that ran to the end. More than `DOUBT`: that is risked at
# every prompt, this is judged once, and too strict a proof would give speed away for simplicity.
BEARING = 0.1
SIMPLEST_FIRST = ("prompt-lookup", "layer-skip", "blockwise", "cascade")


@dataclass(frozen=True, slots=True)
class Validated:
    """What real decoding said of a method with the candidate of that index.

    `gain` is the mean logarithm of the speedup over prompts. `tied`: it ran to the end, and is not
    surely slower than the fastest.
    """

    index: int
    method: str
    gain: float
    tied: bool
    speedup: Interval
    acceptance_rate: float | None
    mean_acceptance_length: float
    plain_tokens_per_second: float
    tokens_per_second: float
    lossless: LosslessVerdict

    def to_facts(self) -> dict[str, Any]:
        """The profile's `measured`."""
        fields = [f for f in self.__slots__ if f not in ("index", "method", "gain", "tied")]
        return {**{f: getattr(self, f) for f in fields}, "speedup": self.speedup.to_json()}


@dataclass(frozen=True, slots=True)
class _Finalist:
    """The runner of a method with the candidate of that index."""

    index: int
    runner: SkipoptRunner

    @property
    def name(self) -> str:
        return self.runner.name

    @property
    def kind(self) -> str:
        """The method and its draft configuration; finalists of a kind differ in their masks."""
        profile = self.runner.profile
        return f"{self.runner.spec} {profile.draft_config if profile else ''}"


def validate(
    target: Target,
    candidates: Sequence[Profile],
    workload: Workload,
    time_is_up: Callable[[], bool],
    on_step: Callable[[], None],
) -> list[Validated]:
    """Race all candidates, plain decoding and other methods over the prompts.

    After a few prompts only one of the masks goes on; after each, those that are surely behind the
    leader leave. So prompts are spent where it is close and where it matters. Methods that need a
    mask take that of the first candidate that skips anything.

    Returns:
        All but plain decoding, the winner first: the simplest of those that tie for the fastest.
    """
    finalists = [
        _Finalist(
            i, SkipoptRunner(target, MethodSpec("layer-skip"), profile, name=f"finalist-{i}")
        )
        for i, profile in enumerate(candidates)
    ]
    first = next((i for i, c in enumerate(candidates) if c.skip_mask.skipped), 0)
    everyone = [*finalists, *_rivals(target, candidates[first], first)]
    plain = SkipoptRunner(target, MethodSpec(PLAIN))
    runners = [plain, *(each.runner for each in everyone)]
    clock = device_clock(target.device)
    timer = Timer(runners, workload.prompts, workload.lengths, clock)
    timer.warm_up()
    left = _race(timer, everyone, time_is_up, on_step)
    tied = {each.name for each in _tied(timer.samples, left)}
    return _simplest_first(
        [_confirmed(target, timer, each, workload, each.name in tied) for each in everyone]
    )


def _race(
    timer: Timer,
    everyone: Sequence[_Finalist],
    time_is_up: Callable[[], bool],
    on_step: Callable[[], None],
) -> list[_Finalist]:
    """Decode prompt by prompt until the time is up, or one is left; who is then still running."""
    left = list(everyone)
    for _ in range(REPEATS):
        for _prompt in timer.iter_repeat(on_step):
            enough = len({sample.prompt for sample in timer.samples}) >= FEWEST_PROMPTS
            if enough:
                left = _still_near(timer.samples, _best_of_each_kind(timer.samples, left))
                timer.keep([PLAIN, *(each.name for each in left)])
            if enough and (time_is_up() or _lost(timer.samples, left)):
                return left
        if len(left) == 1 and timer.samples[-1].repeat:
            return left
    return left


def _best_of_each_kind(samples: Sequence[Sample], running: Sequence[_Finalist]) -> list[_Finalist]:
    """Of masks of one kind the fastest so far.

    Their predictions were closer together than prediction is true: evidence spent on telling them
    apart is missing where kinds are told apart.
    """
    best = {each.kind: each for each in sorted(running, key=lambda e: _gain(samples, e.name))}
    return [each for each in running if best[each.kind] is each]


def _still_near(samples: Sequence[Sample], running: Sequence[_Finalist]) -> list[_Finalist]:
    """Those not surely slower than the fastest, and that may pay; never nobody."""
    leader = max(running, key=lambda each: _gain(samples, each.name))
    return [
        each
        for each in running
        if each is leader
        or (
            not _surely_slower(samples, each.name, leader.name)
            and not _surely_slower(samples, each.name, PLAIN, LEAST_GAIN)
        )
    ]


def _lost(samples: Sequence[Sample], left: Sequence[_Finalist]) -> bool:
    """Does surely nothing pay?"""
    return len(left) == 1 and _surely_slower(samples, left[0].name, PLAIN, LEAST_GAIN)


def _gain(samples: Sequence[Sample], name: str) -> float:
    """Mean logarithm of the speedup over prompts."""
    return mean(median(repeats) for repeats in paired_log_ratios(samples, name, PLAIN))


def _surely_slower(
    samples: Sequence[Sample], name: str, other: str, lead: float = 0.0, doubt: float = DOUBT
) -> bool:
    """Than `other` and a lead, as a logarithm; by a one-sided t test over prompts."""
    gains = [median(repeats) for repeats in paired_log_ratios(samples, name, other)]
    return significantly_worse(gains, 0.0, doubt, margin=lead)


def _tied(samples: Sequence[Sample], left: Sequence[_Finalist]) -> list[_Finalist]:
    """The fastest, and those not surely slower."""
    leader = max(left, key=lambda each: _gain(samples, each.name))
    return [
        each
        for each in left
        if each is leader or not _surely_slower(samples, each.name, leader.name, doubt=BEARING)
    ]


def _simplest_first(confirmed: Sequence[Validated]) -> list[Validated]:
    """Those tied by simplicity, then the others; of equals the fastest first.

    What is complex must be shown to be better. But what is not surely faster than plain decoding
    comes after what is: simplicity alone must not turn speculation off.
    """

    def place(each: Validated) -> tuple[bool, bool, int, float]:
        simplicity = SIMPLEST_FIRST.index(each.method) if each.tied else 0
        return not each.tied, each.tied and each.speedup.low <= 1, simplicity, -each.gain

    return sorted(confirmed, key=place)


def _rivals(target: Target, profile: Profile, index: int) -> list[_Finalist]:
    """What else can be run at once: without training, or with heads that ship for this model."""
    names = ["prompt-lookup", "cascade"]
    if shipped("heads-ffn", target) is not None:
        names.append("blockwise")
    return [_Finalist(index, SkipoptRunner(target, MethodSpec(name), profile)) for name in names]


def _confirmed(
    target: Target, timer: Timer, finalist: _Finalist, workload: Workload, tied: bool
) -> Validated:
    own = samples_of(timer.samples, finalist.name)
    return Validated(
        finalist.index,
        finalist.runner.spec.name,
        _gain(timer.samples, finalist.name),
        tied,
        speedup(timer.samples, finalist.name, PLAIN),
        acceptance_rate(own),
        mean_acceptance_length(own) or 1.0,
        tokens_per_second(samples_of(timer.samples, PLAIN)),
        tokens_per_second(own),
        check_texts(target, workload.compared_texts(own)).verdict,
    )
